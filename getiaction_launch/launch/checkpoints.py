"""Where the checkpoints of a run are that has ended, for people and for programs."""

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path

from getiaction_launch.launch.status import RunStatus
from getiaction_launch.run.checkpoint import last_kept, newest
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import is_remote


def reported(status: RunStatus) -> dict[str, str]:
    """Return the paths or URLs of the checkpoints that the worker of rank 0 has reported.

    Args:
        status: The status of the run, as it was just read.

    Returns:
        Paths by what they are: ``best`` and ``last`` of the user's callbacks, and the launcher's
        ``own`` where these have kept none.
    """
    directory = status.run.directory
    base = directory if is_remote(directory) else directory.absolute()
    places = status.progress.checkpoints
    return {name: at if "://" in at else str(base / at) for name, at in places.items()}


def rows(status: RunStatus, short: Callable[[Path], str]) -> list[tuple[str, str]]:
    """Return the lines of a result that say where the checkpoints are.

    Args:
        status: The status of the run, as it was just read.
        short: Returns a path of the run as people type it.
    """
    run, progress = status.run, status.progress
    notes = {
        "best": f"best {next(iter(progress.best), '')}".strip(),
        "last": "last",
        "own": "saved at the end, because no callback has kept a checkpoint in the run",
    }
    found: dict[str, list[str]] = {}
    for name, at in progress.checkpoints.items():
        # Nothing has checked a URL that lies elsewhere, so it is only quoted.
        path = shlex.quote(at) if "://" in at else short(run.directory / at)
        found.setdefault(path, []).append(notes.get(name, name))
    with contextlib.suppress(OSError, ValueError):  # how the run ended is known all the same
        if status.state is not JobState.SUCCEEDED:
            if committed := newest(run):
                found.setdefault(short(committed.path), []).append("resume starts from it")
        elif not found and (last := _last(status)):
            found[short(last)] = ["last"]
    lines = [f"{path}  ({', '.join(words)})" for path, words in found.items()]
    return list(zip(["checkpoint", *[""] * len(lines)], lines, strict=False))


def _last(status: RunStatus) -> Path | None:
    """Return the last checkpoint of a run that has reported none, as many programs do."""
    known = status.summary and status.summary.last_checkpoint
    if known is None:
        return last_kept(status.run)
    return status.run.directory / known if known else None
