"""A run's logs, one file for each worker: which files there are, and their lines as they come."""

import itertools
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.errors import RecordError, UsageError, counted
from getiaction_launch.launch.logs.remote import RemoteTails
from getiaction_launch.launch.logs.tail import LocalTails
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.entries import read_entries
from getiaction_launch.storage.paths import is_remote

POLL_SECONDS = 0.2
REMOTE_POLL_SECONDS = 5.0
"""Time between two looks at remote storage, where logs are uploaded every 30 seconds by default."""
STATUS_SECONDS = 30.0
"""How long to follow logs that grow without asking whether the run is over."""
MOST_WORKERS = 100_000


def check_rank(run: Run, rank: int, world_size: int) -> None:
    """Check that a run has a worker of a rank.

    Args:
        run: The run that the rank belongs to.
        rank: The rank, as it was typed.
        world_size: How many workers the run has.

    Raises:
        UsageError: If it has no such worker.
    """
    if not 0 <= rank < world_size:
        raise UsageError(
            f"--rank {rank}: run {run.name} has {counted(world_size, 'worker')}.",
            f"Ranks go from 0 to {world_size - 1}.",
        )


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
    directory = run.log_directory(attempt)
    if rank is not None:
        check_rank(run, rank, world_size)
        return {f"rank {rank}": directory / f"rank_{rank}.log"}
    files = {f"rank {r}": directory / f"rank_{r}.log" for r in range(world_size)}
    # A job and its nodes write a log only if something goes wrong outside the workers.
    there = {entry.name for entry in read_entries(directory) if not entry.is_folder}
    nodes = sorted(name for name in there if name.startswith("node_") and name.endswith(".log"))
    own = [directory / name for name in ("job.log", *nodes) if name in there]
    # The scheduler's own output helps only if no node was started.
    if not may_come and not there and (job := JobRecord.read(run)) and job.output:
        own += [Path(job.output)]
    return files | {p.stem.replace("_", " "): p for p in own if _has_content(p)}


def _has_content(path: Path) -> bool:
    return is_remote(path) or (path.is_file() and path.stat().st_size > 0)


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
    remote = {name: path for name, path in files.items() if is_remote(path)}
    local = {name: path for name, path in files.items() if name not in remote}
    sources: list[LocalTails | RemoteTails] = [LocalTails(local)] if local else []
    sources += [RemoteTails(remote)] if remote else []
    over, asked_at = is_over(), time.monotonic()
    kept = last if pattern else None
    for source in sources:
        source.begin(None if pattern else last, since, is_over=over)
    while True:
        for name, lines in itertools.chain(*(source.read(is_over=over) for source in sources)):
            found = filter(pattern.search, lines) if pattern else lines
            for line in found if kept is None else deque(found, kept):
                yield name, line
        if over:
            return
        kept = None
        time.sleep(REMOTE_POLL_SECONDS if remote else POLL_SECONDS)
        is_new = [source.look(is_last=False) for source in sources]
        # A run that has just uploaded something need not be asked whether it is over: that costs.
        if not any(is_new) or time.monotonic() - asked_at > STATUS_SECONDS:
            # Asked before reading: what was written until then is read above.
            over, asked_at = is_over(), time.monotonic()
        if over:
            for source in sources:
                source.look(is_last=True)
