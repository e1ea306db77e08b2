"""What the ranks of an attempt did, by the files that the node processes keep in ``launch/beats``.

Runs of earlier versions have no such files, and a damaged one must not hide the others.
"""

import re
from dataclasses import dataclass, field

from getiaction_launch.errors import RecordError
from getiaction_launch.run.records import load
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children

_NAME = re.compile(r"attempt_(\d{1,6})_node_(\d{1,6})\.json")
MOST_NODES = 512
"""How many files are read, those of the newest attempt first; a page cannot show more."""


@dataclass(frozen=True)
class RankBeat:
    """What one rank last reported.

    Attributes:
        rank: The worker's rank among all workers.
        step: Steps so far, as in ``progress.json``.
        seconds_per_step: Usual time from one step to the next; None until that is known.
        phase_seconds: Time spent in each phase during the attempt, in seconds.
    """

    rank: int
    step: int = 0
    seconds_per_step: float | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stall:
    """When a node noticed that no step came any more, and what it found.

    Attributes:
        noticed_at: When it was noticed, in seconds since the epoch.
        limit_seconds: How long a step may take before it counts as a stall.
        reason: What was found, in a sentence for people.
    """

    noticed_at: float
    limit_seconds: float = 0
    reason: str = ""


@dataclass(frozen=True)
class NodeBeats:
    """``beats/attempt_A_node_N.json``: what the ranks of one node did.

    Attributes:
        attempt: The attempt's number, from 0.
        node_rank: Rank of the node, from 0.
        host: Host name of the node.
        ranks: What each rank of the node last reported.
        stall: What the node found when training stood still; None while it does not.
    """

    attempt: int
    node_rank: int
    host: str = ""
    ranks: list[RankBeat] = field(default_factory=list)
    stall: Stall | None = None


def read_beats(run: Run, notes: list[str]) -> dict[int, list[NodeBeats]]:
    """Read what the nodes of all attempts have reported, by the number of the attempt.

    Args:
        run: The run to read.
        notes: Gets a sentence for each file that cannot be read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    found: dict[int, list[NodeBeats]] = {}
    named = [(_NAME.fullmatch(p.name), p) for p in children(run.launch_directory / "beats")]
    paths = {(int(name[1]), int(name[2])): path for name, path in named if name}
    newest_first = sorted(paths, key=lambda key: (-key[0], key[1]))
    for path in (paths[key] for key in newest_first[:MOST_NODES]):
        try:
            beats = load(NodeBeats, path)
        except RecordError as error:
            notes.append(error.what)
            continue
        if beats:
            found.setdefault(beats.attempt, []).append(beats)
    return {
        number: sorted(nodes, key=lambda node: node.node_rank) for number, nodes in found.items()
    }
