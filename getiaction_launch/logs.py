"""A run's logs: one file for each worker, printed or followed to the run's end."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from getiaction_launch.errors import UsageError
from getiaction_launch.plan import Plan
from getiaction_launch.run import Run

POLL_SECONDS = 0.2
PIECE_BYTES = 1 << 20
LINE_END = re.compile(rb"\r*\n\r*|\r+")


def log_files(run: Run, rank: int | None, attempt: int) -> dict[str, Path]:
    """The workers' logs by name: ``rank 0``, ``rank 1``, ...

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
    own = [directory / "job.log", *sorted(directory.glob("node_*.log"))]
    job = run.read("job") or {}
    if "job_dir" in job and not directory.exists():  # it has not come as far as to a node
        own += [Path(job["job_dir"], f"{job['job_id']}_0_log.out")]
    return files | {p.stem.replace("_", " "): p for p in own if p.exists() and p.stat().st_size}


def read_lines(files: dict[str, Path], is_over: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yield ``(name, line)`` of every file until ``is_over`` and all was read.

    Lines of one file stay in order; a progress bar's carriage returns end a line too.
    """
    positions = dict.fromkeys(files, 0)
    while True:
        over = is_over()  # asked before reading: what was written until then is read below
        for name, path in files.items():
            if path.exists():
                with path.open("rb") as file:
                    file.seek(positions[name])
                    for line in _whole_lines(file, keep_rest=over):
                        yield name, line
                    positions[name] = file.tell()
        if over:
            return
        time.sleep(POLL_SECONDS)


def _whole_lines(file: IO[bytes], *, keep_rest: bool) -> Iterator[str]:
    """Read in pieces, however long the file; leave an unfinished line for later."""
    rest = b""
    while piece := file.read(PIECE_BYTES):
        *lines, rest = LINE_END.split(rest + piece)
        for line in lines:
            yield line.decode(errors="replace")
    if rest and keep_rest:
        yield rest.decode(errors="replace")
    else:
        file.seek(-len(rest), os.SEEK_CUR)
