"""Where the ranks of a running run are, and how much memory they use."""

from collections.abc import Sequence

from getiaction_launch.launch.status import RunStatus
from getiaction_launch.run.beats.records import NodeBeats, RankBeat

MOST_HOSTS = 8
MOST_RANKS = 8
_GB = 1e9
_MOST_BYTES = 10**18
"""A record that says more is damaged, and too large a number could not be divided."""


def hosts(status: RunStatus) -> str:
    """Name the hosts of a run's nodes, in the order of the nodes; empty if they are not known.

    Args:
        status: The status of the run, as it was just read.
    """
    names = list(dict.fromkeys(node.host for node in status.beats if node.host))
    more = f" and {len(names) - MOST_HOSTS} more" if len(names) > MOST_HOSTS else ""
    return ", ".join(names[:MOST_HOSTS]) + more


def memory_rows(status: RunStatus) -> list[tuple[str, str]]:
    """Return the lines that say how much memory the ranks use, on the host and on their GPUs.

    Of many ranks, the least and the most are shown.

    Args:
        status: The status of the run, as it was just read.
    """
    found = [(node, rank) for node in status.beats for rank in node.ranks]
    host = [(node, rank, rank.memory_bytes) for node, rank in found]
    gpu = [(node, rank, rank.gpu_memory_bytes) for node, rank in found]
    totals = {rank.gpu_memory_total_bytes for _, rank in found if rank.gpu_memory_total_bytes}
    of = f"  of {_gigabytes(max(totals))} each" if len(totals) == 1 else ""
    rows = [("memory", _words(host)), ("gpu memory", _words(gpu) and f"{_words(gpu)}{of}")]
    return [row for row in rows if row[1]]


def _words(used: Sequence[tuple[NodeBeats, RankBeat, int | None]]) -> str:
    known = [(size, rank.rank, node.host) for node, rank, size in used if size is not None]
    if len(known) <= MOST_RANKS:
        return "  ".join(f"rank {rank} {_gigabytes(size)}" for size, rank, _ in known)
    least, (most, rank, host) = min(known)[0], max(known)
    return f"{_gigabytes(least)} to {_gigabytes(most)}, most on rank {rank} ({host})"


def _gigabytes(size: int) -> str:
    return f"{max(0, min(size, _MOST_BYTES)) / _GB:.1f} GB"


def as_json(status: RunStatus) -> list[dict[str, object]]:
    """Return each rank for machines: where it is, what it does and how much memory it uses.

    Args:
        status: The status of the run, as it was just read.
    """
    return [
        {
            "rank": rank.rank,
            "node": node.node_rank,
            "host": node.host,
            "step": rank.step,
            "phase": rank.phase,
            "memory_bytes": rank.memory_bytes,
            "gpu_memory_bytes": rank.gpu_memory_bytes,
            "gpu_memory_total_bytes": rank.gpu_memory_total_bytes,
        }
        for node in status.beats
        for rank in node.ranks
    ]
