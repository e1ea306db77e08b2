"""A run's logs: one file for each worker, printed or followed to the run's end."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.errors import UsageError
from getiaction_launch.run import Run

POLL_SECONDS = 0.2


def log_files(run: Run, rank: int | None, attempt: int = 0) -> dict[str, Path]:
    """The workers' logs by name: ``rank 0``, ``rank 1``, ...

    Raises:
        UsageError: If the run has no worker of that rank.
    """
    plan = run.read("plan") or {}
    world_size = plan["topology"]["num_nodes"] * plan["topology"]["workers_per_node"]
    if rank is not None and not 0 <= rank < world_size:
        raise UsageError(
            f"--rank {rank}: run {run.name} has {world_size} workers.",
            f"Ranks go from 0 to {world_size - 1}.",
        )
    ranks = range(world_size) if rank is None else [rank]
    return {f"rank {r}": run.log_directory(attempt) / f"rank_{r}.log" for r in ranks}


def read_lines(files: dict[str, Path], is_over: Callable[[], bool]) -> Iterator[tuple[str, str]]:
    """Yield ``(name, line)`` of every file until ``is_over`` and all was read.

    Lines of one file stay in order; a progress bar's carriage returns end a line too.
    """
    positions = dict.fromkeys(files, 0)
    while True:
        over = is_over()  # asked before reading: what was written until then is read below
        for name, path in files.items():
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(positions[name])
                text = file.read()
            if not over:  # an unfinished line waits for its end
                text = text[: max(text.rfind(b"\n"), text.rfind(b"\r")) + 1]
            positions[name] += len(text)
            for line in text.decode(errors="replace").replace("\r", "\n").splitlines():
                if line.strip():
                    yield name, line
        if over:
            return
        time.sleep(POLL_SECONDS)
