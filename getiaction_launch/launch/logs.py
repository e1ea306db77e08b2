"""A run's logs, one file for each worker: which files there are, and their lines as they come."""

import contextlib
import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.errors import RecordError, UsageError, counted
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.entries import read_entries
from getiaction_launch.storage.paths import children, is_remote, kind_of, read_bytes
from getiaction_launch.storage.rotation import end_of, read_from
from getiaction_launch.storage.segment import name_and_number, segment_name
from getiaction_launch.storage.times import length_before

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
    files: dict[str, Path],
    is_over: Callable[[], bool],
    last: int | None = None,
    since: float | None = None,
    pattern: re.Pattern[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield ``(name, line)`` for the lines of all files, also for those that are still written.

    Lines of one file stay in order. A carriage return, as of a progress bar, ends a line, too.

    Args:
        files: Paths or URLs of the logs, by their names.
        is_over: Returns whether nothing more will be written; all that is written until then is
            yielded.
        last: How many of the lines that are there already to yield of each file, of those that
            match; None for all.
        since: Time from which on lines are yielded, in seconds since the epoch; None for all. Some
            that were written shortly before may be among them, and all lines of a log whose times
            are not known.
        pattern: What a line must contain to be yielded; None for all.
    """
    are_remote = any(map(is_remote, files.values()))
    tails = {n: _RemoteTail(path) if are_remote else _Tail(path) for n, path in files.items()}
    for tail in tails.values():
        if last is not None or since is not None:
            tail.skip(None if pattern else last, since)
    kept = last if pattern else None
    while True:
        over = is_over()  # asked before reading: what was written until then is read below
        for name, tail in tails.items():
            lines = tail.read(is_over=over)
            if pattern:
                lines = filter(pattern.search, lines)
            for line in lines if kept is None else deque(lines, kept):
                yield name, line
        if over:
            return
        kept = None
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


def is_since(at: float | None, since: float | None) -> bool:
    """Whether something that was written at a time, or nobody knows when, is to be shown.

    Args:
        at: When it was written, in seconds since the epoch; None if that is unknown.
        since: Time from which on everything is shown; None for all times.
    """
    return at is None or since is None or at >= since


class _Tail:
    """Reads what was appended to a file since the last read."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._rest, self._kept = path, 0, b"", b""

    def skip(self, last: int | None, since: float | None) -> None:
        """Leave out what is before the last lines, or before a time; read no more than them.

        Args:
            last: How many lines to leave; None for all.
            since: Time from which on lines are wanted; None for all.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            first = 0 if since is None else self._first_since(since)
            self._position = first
            if last is None:
                return
            ending, window_bytes = b"", PIECE_BYTES
            self._position = position = end_of(self._path)
            while (start := _start_of_last(ending, last)) is None and position > first:
                position = self._position = max(first, self._position - window_bytes)
                ending = b"".join(self._pieces())
                window_bytes *= 2
            self._kept = ending[start or 0 :]

    def _first_since(self, since: float) -> int:
        """Return where the first line begins that was not complete at that time."""
        if self._path.stat().st_mtime < since:
            return end_of(self._path)
        length = length_before(self._path, since)
        if not length:
            return 0
        start = max(0, length - PIECE_BYTES)
        before, _ = read_from(self._path, start, length - start)
        return start + max((end.end() for end in LINE_END.finditer(before)), default=0)

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

    def skip(self, last: int | None, since: float | None) -> None:
        """Leave out what is before the last lines, or before a time; read no segments but theirs.

        Args:
            last: How many lines to leave; None for all.
            since: Time from which on lines are wanted; None for all.
        """
        found = [
            (name_and_number(entry.name), entry.written_at)
            for entry in read_entries(self._path.parent)
        ]
        times = {number: at for (name, number), at in found if name == self._path.name}
        end = max(times, default=-1) + 1
        # A segment is written when its lines are there already.
        first = min((n for n, at in times.items() if is_since(at, since)), default=end)
        self._position = first
        if last is None:
            return
        self._position, ending = end, b""
        while (start := _start_of_last(ending, last)) is None and self._position > first:
            self._position -= 1
            ending = self._read() + ending
        self._kept = ending[start or 0 :]
        self._position = end

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
