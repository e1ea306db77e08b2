"""Records of processes that could not say themselves why they ended."""

import contextlib
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from getiaction_launch.node.watching.beats import Beats
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.beats.records import Stall
from getiaction_launch.run.node_records import STALLED, TIMED_OUT, WORKER_DIED, WorkerError
from getiaction_launch.system.memory import count_oom_kills

_LAST_BYTES = 256 << 10
"""How much of a log is read: the watchdog also prints a long C++ stack."""


def record_kills(attempt: Attempt, exit_codes: Mapping[int, int | None], kills_before: int) -> None:
    """Record which nodes' processes the kernel has killed because memory ran out.

    Args:
        attempt: The attempt that the nodes belong to.
        exit_codes: Exit code of each node's process on this machine, by the node's rank.
        kills_before: How often the kernel had killed before the attempt.
    """
    killed = [rank for rank, code in exit_codes.items() if code == -signal.SIGKILL]
    if not killed or count_oom_kills() <= kills_before:
        return
    how = "the node's process was killed by SIGKILL because its memory limit was reached"
    for node_rank in killed:
        with contextlib.suppress(OSError):  # a full disk must not hide that the node is gone
            attempt.write_node_error(node_rank, "OutOfMemory", how)


def code_of(attempt: Attempt, rank: int, returncode: int, beats: Beats) -> int:
    """Return what counts as the exit code of a worker.

    Compiled code of simulators, renderers and torch may crash while Python shuts down, or a thread
    may keep it from that until it is killed. What the program has done by then is done; the
    worker's log says how its process has ended.

    Args:
        attempt: The attempt that the worker belongs to.
        rank: Rank of the worker in the run, from 0.
        returncode: How the worker's process ended, as :mod:`subprocess` says it.
        beats: What the workers have noted, such as that their program has ended.
    """
    noted = beats.exit_code(rank)
    if noted is None or returncode >= 0:
        return returncode
    name = signal.Signals(-returncode).name
    with contextlib.suppress(OSError), _log_of(attempt, rank).open("a") as log:
        log.write(f"killed by {name} while Python shut down, after the program had ended\n")
    return noted


def record_death(
    attempt: Attempt, rank: int, node_rank: int, returncode: int, *, is_oom: bool
) -> None:
    """Record why a worker ended, unless it has recorded an exception itself.

    Args:
        attempt: The attempt that the worker belongs to.
        rank: Rank of the worker in the run, from 0.
        node_rank: Rank of this node, from 0.
        returncode: How the worker's process ended, as :mod:`subprocess` says it.
        is_oom: Whether the kernel has killed a process here because memory ran out.
    """
    name = WORKER_DIED
    if returncode < 0:
        signal_name = signal.Signals(-returncode).name
        message = f"the worker was killed by {signal_name}"
        if signal_name == "SIGKILL" and is_oom:
            name, message = "OutOfMemory", f"{message} because its memory limit was reached"
        elif signal_name == "SIGKILL":
            message += ", often because the machine ran out of memory"
        elif signal_name == "SIGABRT" and _has_timed_out(attempt, rank):
            message = f"{message} {TIMED_OUT}"
    else:
        message = f"the worker exited with code {returncode} and no exception"
    with contextlib.suppress(OSError):  # a full disk must not keep the node from ending the others
        attempt.run.local.write_error(
            attempt.number, WorkerError(rank, node_rank, socket.gethostname(), name, message)
        )


def _has_timed_out(attempt: Attempt, rank: int) -> bool:
    """Whether NCCL's watchdog says in a worker's log that others did not arrive in a collective."""
    path = _log_of(attempt, rank)
    with contextlib.suppress(OSError), path.open("rb") as log:
        log.seek(max(0, path.stat().st_size - _LAST_BYTES))
        return b"caught collective operation timeout" in log.read(_LAST_BYTES)
    return False


def _log_of(attempt: Attempt, rank: int) -> Path:
    return attempt.run.local.log_directory(attempt.number) / f"rank_{rank}.log"


def record_stall(attempt: Attempt, stall: Stall, workers_per_node: int) -> None:
    """Record that the attempt is ended because training stands still.

    Args:
        attempt: The attempt that stands still.
        stall: What the watchdog has found.
        workers_per_node: How many ranks a node has.
    """
    rank = stall.odd_ranks[0] if stall.odd_ranks else 0
    error = WorkerError(rank, rank // workers_per_node, "", STALLED, stall.reason)
    for place in dict.fromkeys((attempt.run.local, attempt.run)):
        with contextlib.suppress(OSError):  # a full disk must not keep the node from ending it
            place.write_error(attempt.number, error)
