"""A run's logs, one file for each worker: which files there are, and their lines as they come."""

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.errors import RecordError, UsageError, counted
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, is_remote, kind_of, read_bytes
from getiaction_launch.storage.rotation import end_of, read_from
from getiaction_launch.storage.segment import name_and_number, segment_name

POLL_SECONDS = 0.2
REMOTE_POLL_SECONDS = 2.0
PIECE_BYTES = 1 << 20
MOST_WORKERS = 100_000
LINE_END = re.compile(rb"\r*\n\r*|\r+")


def log_files(
    run: Run, rank: int | None, attempt: int, *, may_come: bool = False
) -> dict[str, Path]:
    """Find the logs of an attempt by their names: ``rank 0``, ``rank 1``, ...

    Logs of the job and of its nodes are included if there is something in them.

    Args:
        run: The run that wrote the logs.
        rank: Rank of the only worker whose log is wanted; None for all logs.
        attempt: Number of the attempt, from 0.
        may_come: Whether logs that do not exist yet may still be written.

    Raises:
        UsageError: If the run has no worker of that rank.
    """
    world_size = Plan.of(run).topology.world_size
    if world_size > MOST_WORKERS:
        raise RecordError(f"plan.json: topology has {world_size} workers.", "The file is damaged.")
    if rank is not None and not 0 <= rank < world_size:
        raise UsageError(
            f"--rank {rank}: run {run.name} has {counted(world_size, 'worker')}.",
            f"Ranks go from 0 to {world_size - 1}.",
        )
    directory = run.log_directory(attempt)
    if rank is not None:
        return {f"rank {rank}": directory / f"rank_{rank}.log"}
    files = {f"rank {r}": directory / f"rank_{r}.log" for r in range(world_size)}
    # A job and its nodes write a log only if something goes wrong outside the workers.
    logs = [path for path in children(directory) if path.suffix == ".log"]
    own = [directory / "job.log", *sorted(path for path in logs if path.name.startswith("node_"))]
    job = JobRecord.read(run)
    # The scheduler's own output helps only if no node was started.
    if job and job.output and not (may_come or children(directory)):
        own += [Path(job.output)]
    return files | {p.stem.replace("_", " "): p for p in own if _has_content(p)}


def _has_content(path: Path) -> bool:
    return kind_of(path) == "file" and (is_remote(path) or path.stat().st_size > 0)


def read_lines(
    files: dict[str, Path], is_over: Callable[[], bool], last: int | None = None
) -> Iterator[tuple[str, str]]:
    """Yield ``(name, line)`` for the lines of all files, also for those that are still written.

    Lines of one file stay in order. A carriage return, as of a progress bar, ends a line, too.

    Args:
        files: Paths or URLs of the logs, by their names.
        is_over: Returns whether nothing more will be written; all that is written until then is
            yielded.
        last: How many of the lines that are there already to yield of each file; None for all.
    """
    are_remote = any(map(is_remote, files.values()))
    tails = {n: _RemoteTail(path) if are_remote else _Tail(path) for n, path in files.items()}
    for tail in tails.values() if last is not None else ():
        tail.skip_to(last or 0)
    while True:
        over = is_over()  # asked before reading: what was written until then is read below
        for name, tail in tails.items():
            for line in tail.read(is_over=over):
                yield name, line
        if over:
            return
        time.sleep(REMOTE_POLL_SECONDS if are_remote else POLL_SECONDS)


def _start_of_last(content: bytes, lines: int) -> int | None:
    """Return where the last lines start in a text; None if it has fewer of them.

    Args:
        content: The end of a log.
        lines: How many lines are wanted.
    """
    starts = [end.end() for end in LINE_END.finditer(content) if end.end() < len(content)]
    if lines == 0:
        return len(content)
    return starts[-lines] if len(starts) >= lines else None


class _Tail:
    """Reads what was appended to a file since the last read."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._rest, self._kept = path, 0, b"", b""

    def skip_to(self, last: int) -> None:
        """Leave out what is before the last lines; read no more of the file than them."""
        ending, window_bytes = b"", PIECE_BYTES
        with contextlib.suppress(FileNotFoundError):
            self._position = position = end_of(self._path)
            while (start := _start_of_last(ending, last)) is None and position > 0:
                position = self._position = max(0, self._position - window_bytes)
                ending = b"".join(self._pieces())
                window_bytes *= 2
            self._kept = ending[start or 0 :]

    def read(self, *, is_over: bool) -> Iterator[str]:
        """Yield the new lines; the last one is kept for later if it is unfinished.

        Args:
            is_over: Whether nothing more will follow, so that an unfinished line is yielded, too.
        """
        kept, self._kept = self._kept, b""
        for piece in itertools.chain([kept], self._pieces()):
            *lines, self._rest = LINE_END.split(self._rest + piece)
            if len(self._rest) > PIECE_BYTES:  # whatever that is, it is not a line
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                yield line.decode(errors="replace")
        if self._rest and is_over:
            yield self._rest.decode(errors="replace")

    def _pieces(self) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            while True:
                piece, self._position = read_from(self._path, self._position, PIECE_BYTES)
                if not piece:
                    return
                yield piece


class _RemoteTail(_Tail):
    """Reads a file that lies on remote storage, in segments that never change."""

    def skip_to(self, last: int) -> None:
        """Leave out what is before the last lines; read no segments but theirs."""
        found = map(name_and_number, (path.name for path in children(self._path.parent)))
        numbers = [number for name, number in found if name == self._path.name]
        ending = b""
        self._position = max(numbers, default=-1) + 1
        while (start := _start_of_last(ending, last)) is None and self._position > 0:
            self._position -= 1
            ending = self._read() + ending
        self._kept = ending[start or 0 :]
        self._position = max(numbers, default=-1) + 1

    def _read(self) -> bytes:
        return read_bytes(self._path.with_name(segment_name(self._path.name, self._position)))

    def _pieces(self) -> Iterator[bytes]:
        while True:
            try:
                piece = self._read()
            except FileNotFoundError:
                return
            self._position += 1
            yield piece
