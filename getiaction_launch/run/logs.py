"""A run's logs, one file for each worker: which files there are, and their lines as they come."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.errors import UsageError, counted
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, is_remote, kind_of, read_bytes
from getiaction_launch.storage.segment import segment_name

POLL_SECONDS = 0.2
REMOTE_POLL_SECONDS = 2.0
PIECE_BYTES = 1 << 20
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


def read_lines(files: dict[str, Path], is_over: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yield ``(name, line)`` for the lines of all files, also for those that are still written.

    Lines of one file stay in order. A carriage return, as of a progress bar, ends a line, too.

    Args:
        files: Paths or URLs of the logs, by their names.
        is_over: Returns whether nothing more will be written; all that is written until then is
            yielded.
    """
    are_remote = any(map(is_remote, files.values()))
    tails = {n: _RemoteTail(path) if are_remote else _Tail(path) for n, path in files.items()}
    while True:
        over = is_over()  # asked before reading: what was written until then is read below
        for name, tail in tails.items():
            for line in tail.read(is_over=over):
                yield name, line
        if over:
            return
        time.sleep(REMOTE_POLL_SECONDS if are_remote else POLL_SECONDS)


class _Tail:
    """Reads what was appended to a file since the last read."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._rest = path, 0, b""

    def read(self, *, is_over: bool) -> Iterator[str]:
        """Yield the new lines; the last one is kept for later if it is unfinished.

        Args:
            is_over: Whether nothing more will follow, so that an unfinished line is yielded, too.
        """
        for piece in self._pieces():
            *lines, self._rest = LINE_END.split(self._rest + piece)
            for line in lines:
                yield line.decode(errors="replace")
        if self._rest and is_over:
            yield self._rest.decode(errors="replace")

    def _pieces(self) -> Iterator[bytes]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                while piece := file.read(PIECE_BYTES):
                    self._position += len(piece)
                    yield piece


class _RemoteTail(_Tail):
    """Reads a file that lies on remote storage, in segments that never change."""

    def _pieces(self) -> Iterator[bytes]:
        while True:
            path = self._path.with_name(segment_name(self._path.name, self._position))
            try:
                piece = read_bytes(path)
            except FileNotFoundError:
                return
            self._position += 1
            yield piece
