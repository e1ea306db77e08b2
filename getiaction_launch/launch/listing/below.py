"""Finds runs below any directory, folder of a bucket or bucket, however deep they lie."""

import contextlib
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from getiaction_launch.run.reading.summary import Look, look_at
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.entries import read_entries
from getiaction_launch.storage.paths import is_remote

DEEPEST = 4
"""How many levels below a directory to look: ``bucket/team/experiments/name/version_N``."""
OF_ROOT = 2
"""How many levels below a directory of runs they lie: ``name/version_N``."""
_MOST_NAMES = 5
VERSION = re.compile(r"version_\d+")
_TRAINED = re.compile(
    r"config\.yaml|hparams\.yaml|metrics\.csv|checkpoints|events\.out\.tfevents.*"
)
"""What a training leaves that nobody launched, such as that of ``getiaction fit``."""


@dataclass(frozen=True)
class Found:
    """A run that is there.

    Attributes:
        run: The run, by its directory; on remote storage, as it was seen when it was found.
        submitted_at: When it was submitted, or began if nobody launched it, in seconds since the
            epoch.
        last_written_at: When a run that nobody launched has last written a file of its own; None
            for one that was launched.
    """

    run: Run
    submitted_at: float
    last_written_at: float | None = None

    @property
    def is_launched(self) -> bool:
        """Whether this launcher has started it; otherwise nobody can say where it stands."""
        return self.last_written_at is None


def runs_below(place: str, pattern: str = "*", deepest: int = DEEPEST) -> list[Found]:
    """List all runs at or below a path or URL, the one that was submitted last first.

    Args:
        place: A run's directory, or any directory or URL with runs below it.
        pattern: What the names of the runs must match, as in a shell: ``act*``, or
            ``act*/version_0``. Nothing is read of the others.
        deepest: How many levels below the place to look.

    Raises:
        StorageError: If remote storage does not answer.
    """
    here = Run.at(place).directory
    here = here if is_remote(here) else Path(os.path.abspath(here))  # noqa: PTH100 - links stay as typed
    name, _, version = pattern.partition("/")
    folders = _folders(here) if is_remote(here) else []
    may_be_run = folders == [] or VERSION.fullmatch(here.name) or here / "launch" in folders
    versions, level = [here] if may_be_run else [], [here]
    for depth in range(deepest):
        if depth == OF_ROOT - 1 == deepest - 1:  # what lies here can only be names of runs
            level = [path for path in level if fnmatchcase(path.name, name)]
        listed = [] if folders else for_each(_folders, level, here, also_in_directory=True)
        below = folders or [path for paths in listed for path in paths]
        folders = []
        versions += [path for path in below if VERSION.fullmatch(path.name)]
        level = [path for path in below if not VERSION.fullmatch(path.name)]
    wanted = [
        path
        for path in versions
        if fnmatchcase(path.parent.name, name) and fnmatchcase(path.name, version or "*")
    ]
    found = [each for each in for_each(look, wanted, here, also_in_directory=True) if each]
    return sorted(found, key=lambda each: each.submitted_at, reverse=True)


def look(directory: Path) -> Found | None:
    """Return the run that a directory holds; None if it holds none.

    Args:
        directory: Path or URL of the directory.

    Raises:
        StorageError: If remote storage does not answer.
    """
    # A version without a plan was not launched, or is being claimed or discarded.
    seen = look_at(Run(directory))
    if isinstance(seen, Look):
        if seen.submitted_at is not None:
            return Found(seen, seen.submitted_at)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            plan = directory / "launch" / "plan.json"
            # A link that leads to itself is there, too: who reads it says what is wrong.
            return Found(seen, plan.lstat().st_mtime)
    return look_for_other(directory)


def look_for_other(directory: Path) -> Found | None:
    """Return the run of another program that a directory holds; None if it holds none.

    Args:
        directory: Path or URL of a directory without a plan.

    Raises:
        StorageError: If remote storage does not answer.
    """
    if not VERSION.fullmatch(directory.name):
        return None
    entries = read_entries(directory)
    times = [entry.written_at for entry in entries if _TRAINED.fullmatch(entry.name)]
    if not times or any(entry.name == "launch" for entry in entries):
        return None
    # Object storage has no times of folders.
    known = [time for time in times if time is not None] or [0.0]
    return Found(Run(directory), min(known), max(known))


def _folders(directory: Path) -> list[Path]:
    return [directory / entry.name for entry in read_entries(directory) if entry.is_folder]


def contents_of(directory: Path) -> str:
    """Return the first names in a directory, for a message; empty if there are none."""
    entries = read_entries(directory)
    names = sorted(f"{entry.name}/" if entry.is_folder else entry.name for entry in entries)
    more = ["..."] if len(names) > _MOST_NAMES else []
    return ", ".join([*names[:_MOST_NAMES], *more])
