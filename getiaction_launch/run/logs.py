"""A run's logs: one file for each worker, printed or followed to the run's end."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.errors import UsageError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, is_remote, read_bytes
from getiaction_launch.storage.segment import segment_name

POLL_SECONDS = 0.2
REMOTE_POLL_SECONDS = 2.0
PIECE_BYTES = 1 << 20
LINE_END = re.compile(rb"\r*\n\r*|\r+")


def log_files(
    run: Run, rank: int | None, attempt: int, *, may_come: bool = False
) -> dict[str, Path]:
    """The workers' logs by name: ``rank 0``, ``rank 1``, ...

    Args:
        run: Whose.
        rank: Of this worker alone.
        attempt: Which.
        may_come: Whether some that are not there yet may still come.

    Raises:
        UsageError: If the run has no worker of that rank.
    """
    world_size = Plan.of(run).topology.world_size
    if rank is not None and not 0 <= rank < world_size:
        raise UsageError(
            f"--rank {rank}: run {run.name} has {world_size} workers.",
            f"Ranks go from 0 to {world_size - 1}.",
        )
    directory = run.log_directory(attempt)
    if rank is not None:
        return {f"rank {rank}": directory / f"rank_{rank}.log"}
    files = {f"rank {r}": directory / f"rank_{r}.log" for r in range(world_size)}
    # Job and nodes speak only when something is wrong with themselves.
    logs = [path for path in children(directory) if path.suffix == ".log"]
    own = [directory / "job.log", *sorted(path for path in logs if path.name.startswith("node_"))]
    job = JobRecord.read(run)
    if job and job.output and not (may_come or children(directory)):  # no node was started
        own += [Path(job.output)]
    return files | {p.stem.replace("_", " "): p for p in own if p.exists() and p.stat().st_size}


def read_lines(files: dict[str, Path], is_over: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yield ``(name, line)`` of every file until ``is_over`` and all was read.

    Lines of one file stay in order; a progress bar's carriage returns end a line too.
    """
    are_remote = any(map(is_remote, files.values()))
    tails = {n: _RemoteTail(path) if are_remote else _Tail(path) for n, path in files.items()}
    while True:
        over = is_over()  # asked before reading: what was written until then is read below
        for name, tail in tails.items():
            for line in tail.read(keep_rest=over):
                yield name, line
        if over:
            return
        time.sleep(REMOTE_POLL_SECONDS if are_remote else POLL_SECONDS)


class _Tail:
    """What is new in a file since it was last read."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._rest = path, 0, b""

    def read(self, *, keep_rest: bool) -> Iterator[str]:
        """Its whole lines, however long the file; an unfinished one is left for later."""
        for piece in self._pieces():
            *lines, self._rest = LINE_END.split(self._rest + piece)
            for line in lines:
                yield line.decode(errors="replace")
        if self._rest and keep_rest:
            yield self._rest.decode(errors="replace")

    def _pieces(self) -> Iterator[bytes]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._position)
                while piece := file.read(PIECE_BYTES):
                    self._position += len(piece)
                    yield piece


class _RemoteTail(_Tail):
    """The same of a file that lies in segments, which never change."""

    def _pieces(self) -> Iterator[bytes]:
        while True:
            path = self._path.with_name(segment_name(self._path.name, self._position))
            try:
                piece = read_bytes(path)
            except FileNotFoundError:
                return
            self._position += 1
            yield piece
