"""What the workers of a running attempt are doing: ``launch/beats/``, one file for each node.

Each worker notes its step and phase in memory that it shares with its node's process, which writes
one record about once a second. Runs of earlier versions have none.
"""

import contextlib
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from getiaction_launch.errors import RecordError
from getiaction_launch.run.records import load
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import children, is_remote, write_json

if TYPE_CHECKING:
    from getiaction_launch.run.run import Run

Phase = Literal[
    "starting",
    "fetching",
    "forward",
    "backward",
    "optimizing",
    "validating",
    "saving",
    "waiting",
    "finished",
]
"""What a rank is doing; ``waiting`` is in a collective, where it waits for the other ranks."""
PHASES: tuple[Phase, ...] = get_args(Phase)
_NAME = re.compile(r"attempt_(\d{1,9})_node_(\d{1,9})\.json")


@dataclass(frozen=True)
class RankBeat:
    """What one rank is doing.

    Attributes:
        rank: The worker's rank among all workers.
        pid: Id of the worker's process on its node.
        step: Steps so far, as in ``progress.json``; a step is one training batch.
        phase: What the rank is doing now.
        phase_since: When that began, in seconds since the epoch.
        step_at: When the last step of this attempt ended, in seconds since the epoch; None before
            the first one.
        seconds_per_step: Usual time from one step to the next, in seconds; None until it is known.
        phase_seconds: Time spent in each phase during this attempt, in seconds.
        recent_seconds: The same per step, during about the last 30 steps or 30 seconds; empty until
            that is known.
        silent_seconds: How long the rank has shown no sign of life when this was written.
        limit_seconds: How long it may show none before that counts as a stall; None where nobody
            can say, as outside of a fit.
        memory_bytes: Host memory of the worker's process (resident set size), without its loaders;
            None where it cannot be read, here and below.
        gpu_memory_bytes: Memory that is in use on the worker's GPU, by whomever.
        gpu_memory_total_bytes: Memory of that GPU in all.
    """

    rank: int
    pid: int = 0
    step: int = 0
    phase: Phase = "starting"
    phase_since: float = 0
    step_at: float | None = None
    seconds_per_step: float | None = None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    recent_seconds: dict[str, float] = field(default_factory=dict)
    silent_seconds: float = 0
    limit_seconds: float | None = None
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_memory_total_bytes: int | None = None


@dataclass(frozen=True)
class Stall:
    """Training stands still: what the node that noticed it has found.

    Attributes:
        noticed_at: When it was noticed, in seconds since the epoch.
        step: The step after which no other one came.
        limit_seconds: How long the most patient rank may show no sign of life.
        odd_ranks: The ranks that the others wait for; empty if that cannot be said.
        reason: What was found, in a sentence for people.
        stacks: Name of the file in ``logs/attempt_N/`` with the stacks of all ranks; None
            if there is no such file.
    """

    noticed_at: float
    step: int = 0
    limit_seconds: float = 0
    odd_ranks: list[int] = field(default_factory=list)
    reason: str = ""
    stacks: str | None = None


@dataclass(frozen=True)
class NodeBeats:
    """``beats/attempt_A_node_N.json``: what the ranks of one node do. Written by that node.

    Attributes:
        attempt: The attempt's number, from 0.
        node_rank: Rank of the node, from 0.
        host: Host name of the node.
        written_at: When this was written, in seconds since the epoch.
        ranks: What each rank of the node is doing, the lowest rank first.
        stall: What the node found when training stood still; None while it does not.
        gpus: Models of the GPUs of the node's machine; empty for a run on CPUs, and where the
            driver does not say.
    """

    attempt: int
    node_rank: int
    host: str = ""
    written_at: float = 0
    ranks: list[RankBeat] = field(default_factory=list)
    stall: Stall | None = None
    gpus: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, run: "Run", attempt: int, node_rank: int) -> "NodeBeats | None":
        """Read the record of one node; None if there is none.

        Raises:
            RecordError: If the file is damaged; the message names the file and the key.
            StorageError: If remote storage does not answer.
        """
        return load(cls, _directory(run) / f"attempt_{attempt}_node_{node_rank}.json")

    def write(self, run: "Run") -> None:
        """Replace the file atomically.

        Args:
            run: The run that the node works for. On remote storage its staging copy, which the
                mirror uploads.

        Raises:
            OSError: If the disk refuses the write.
        """
        directory = _directory(run)
        if not is_remote(directory):
            directory.mkdir(exist_ok=True)  # not its parents: the run may have been removed
        path = directory / f"attempt_{self.attempt}_node_{self.node_rank}.json"
        write_json(path, asdict(self), durable=False)


def read_beats(run: "Run", attempt: int) -> list[NodeBeats]:
    """Read the records of all nodes of an attempt, the node of rank 0 first.

    A damaged record is left out: it must not hide the others.

    Raises:
        StorageError: If remote storage does not answer.
    """
    found: list[tuple[int, Path]] = []
    for path in children(_directory(run)):
        name = _NAME.fullmatch(path.name)
        if name and int(name[1]) == attempt:
            found.append((int(name[2]), path))
    paths = [path for _, path in sorted(found, key=lambda each: each[0])]
    return [record for record in for_each(_read, paths, run.directory) if record]


def _directory(run: "Run") -> Path:
    return run.launch_directory / "beats"


def _read(path: Path) -> NodeBeats | None:
    with contextlib.suppress(RecordError):
        return load(NodeBeats, path)
    return None
