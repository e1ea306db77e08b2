"""Stacks of a run's ranks: who asks for them, and what a node answers.

Any process that can write to the run's directory may ask, with ``launch/stacks.json``; each node's
process looks for it now and then and answers with a file next to the attempt's logs. So stacks are
had in the same way on every backend, from any shell, and of runs on remote storage.
"""

import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from getiaction_launch.run.records import Record, load
from getiaction_launch.storage.paths import write_json

if TYPE_CHECKING:
    from getiaction_launch.run.run import Run

DUMP_SIGNAL: int | None = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else None
"""Signal on which a worker writes its stacks, if they cannot be read from outside."""
STACKS_FILE = "stacks.txt"
"""File of an attempt's logs with the stacks of all ranks when training stood still."""

_SHOWN = 12


@dataclass(frozen=True)
class StacksRequest(Record):
    """``stacks.json``: somebody asks for the stacks of all ranks. Written by who asks.

    Attributes:
        token: A random word, which each answer repeats.
        attempt: Number of the attempt that is asked about, from 0.
        requested_at: When it was asked, in seconds since the epoch.
    """

    NAME: ClassVar[str] = "stacks"

    token: str = ""
    attempt: int = 0
    requested_at: float = 0

    @classmethod
    def make(cls, attempt: int) -> "StacksRequest":
        """Ask for the stacks of an attempt now."""
        import secrets  # slow to import

        return cls(secrets.token_hex(8), attempt, time.time())


@dataclass(frozen=True)
class Frame:
    """One call of a stack.

    Attributes:
        function: Name of the function that was called.
        file: Path of its source file.
        line: The line that it has reached.
    """

    function: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.function} ({self.file}:{self.line})"


@dataclass(frozen=True)
class Thread:
    """One thread of a rank.

    Attributes:
        name: Name of the thread; ``MainThread`` trains.
        frames: Its calls, the innermost first.
        has_gil: Whether it holds the interpreter's lock.
    """

    name: str
    frames: list[Frame] = field(default_factory=list)
    has_gil: bool = False


@dataclass(frozen=True)
class RankStacks:
    """The stacks of one rank.

    Attributes:
        rank: The worker's rank among all workers.
        pid: Id of the worker's process on its node.
        is_stopped: Whether a signal such as SIGSTOP has stopped the process.
        threads: Its threads, the main thread first.
        error: Why its stacks could not be read; empty if they were.
    """

    rank: int
    pid: int = 0
    is_stopped: bool = False
    threads: list[Thread] = field(default_factory=list)
    error: str = ""

    def with_files(self, renamed: Callable[[str], str]) -> "RankStacks":
        """Return the same stacks with other names of source files.

        Args:
            renamed: Returns the name to show instead of one.
        """
        threads = [
            replace(thread, frames=[replace(f, file=renamed(f.file)) for f in thread.frames])
            for thread in self.threads
        ]
        return replace(self, threads=threads)

    @property
    def frames(self) -> list[Frame]:
        """The calls of the main thread, the innermost first."""
        return self.threads[0].frames if self.threads else []


@dataclass(frozen=True)
class NodeStacks:
    """``logs/attempt_N/stacks_R.json``: the stacks of one node's ranks. Written by that node.

    Attributes:
        token: The word of the request that is answered.
        node_rank: Rank of the node, from 0.
        host: Host name of the node.
        taken_at: When the stacks were read, in seconds since the epoch.
        ranks: The stacks of each rank, the lowest rank first.
    """

    token: str
    node_rank: int = 0
    host: str = ""
    taken_at: float = 0
    ranks: list[RankStacks] = field(default_factory=list)

    @classmethod
    def read(cls, run: "Run", attempt: int, node_rank: int) -> "NodeStacks | None":
        """Read the last answer of a node; None if it has not given one.

        Raises:
            RecordError: If the file is damaged; the message names the file and the key.
            StorageError: If remote storage does not answer.
        """
        return load(cls, run.log_directory(attempt) / f"stacks_{node_rank}.json")

    def write(self, run: "Run", attempt: int) -> None:
        """Write the answer of this node.

        Raises:
            OSError: If the disk refuses the write.
            StorageError: If the write to remote storage fails.
        """
        path = run.log_directory(attempt) / f"stacks_{self.node_rank}.json"
        write_json(path, asdict(self), durable=False)


@dataclass(frozen=True)
class Group:
    """Ranks that are at the same place.

    Attributes:
        ranks: Each of them with the host of its node, the lowest rank first.
        stacks: The stacks of one of them, which stands for all.
    """

    ranks: list[tuple[int, int, str]]
    stacks: RankStacks


def grouped(nodes: Sequence[NodeStacks], odd_ranks: Collection[int] = ()) -> list[Group]:
    """Group ranks whose main threads are at the same place; the smallest group comes first.

    Args:
        nodes: What the nodes have answered.
        odd_ranks: Ranks that come first among groups of the same size.
    """
    groups: dict[object, list[tuple[int, int, str, RankStacks]]] = {}
    for node in nodes:
        for each in node.ranks:
            place = tuple(each.frames) if each.frames else (each.rank,)
            key = (each.is_stopped, bool(each.error), place)
            groups.setdefault(key, []).append((each.rank, node.node_rank, node.host, each))
    found = [
        Group([member[:3] for member in sorted(group, key=lambda m: m[0])], group[0][3])
        for group in groups.values()
    ]

    def order(group: Group) -> tuple[int, bool, int]:
        first = group.ranks[0][0]
        return len(group.ranks), first not in odd_ranks, first

    return sorted(found, key=order)


def as_text(groups: Sequence[Group], *, is_full: bool = False) -> str:
    """Write stacks for people, each group of equal ones once.

    Args:
        groups: The groups, in the order in which they are shown.
        is_full: Whether to show all threads and all their calls, and not only the innermost calls
            of the thread that trains.
    """
    return "\n\n".join(_group_text(group, is_full=is_full) for group in groups)


def _group_text(group: Group, *, is_full: bool) -> str:
    names = ", ".join(f"rank {rank} on node {node} ({host})" for rank, node, host in group.ranks)
    stacks = group.stacks
    lines = [f"{names}, stopped by a signal (SIGSTOP):" if stacks.is_stopped else f"{names}:"]
    if stacks.error:
        lines += [f"  no stack: {stacks.error}"]
    for thread in stacks.threads if is_full else stacks.threads[:1]:
        holds = ", holds the interpreter's lock" if thread.has_gil else ""
        lines += [f"  thread {thread.name}{holds}"] if is_full or holds else []
        shown = thread.frames if is_full else thread.frames[:_SHOWN]
        lines += [f"    {frame}" for frame in shown]
        if hidden := len(thread.frames) - len(shown):
            lines += [f"    ... and {hidden} calls above"]
    return "\n".join(lines)
