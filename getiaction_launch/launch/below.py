"""Finds runs below any directory, folder of a bucket or bucket, however deep they lie."""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from getiaction_launch.run.run import ROUND_TRIPS, Run
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.paths import file_system, is_remote, modified_at, reaching

DEEPEST = 4
"""How many levels below a directory to look: ``bucket/team/experiments/name/version_N``."""
_MOST_NAMES = 5
_VERSION = re.compile(r"version_\d+")


def runs_below(place: str) -> list[Run]:
    """List all launched runs at or below a path or URL, the one that was submitted last first.

    Args:
        place: A run's directory, or any directory or URL with runs at most :data:`DEEPEST` levels
            below it.

    Raises:
        StorageError: If remote storage does not answer.
    """
    from concurrent.futures import ThreadPoolExecutor  # slow to import

    here = Run.at(place).directory
    here = here if is_remote(here) else Path(os.path.abspath(here))  # noqa: PTH100 - links stay as typed
    found, level = [here], [here]
    with ThreadPoolExecutor(ROUND_TRIPS) as pool:
        for _ in range(DEEPEST):
            below = [path for paths in pool.map(_folders, level) for path in paths]
            found += [path for path in below if _VERSION.fullmatch(path.name)]
            level = [path for path in below if not _VERSION.fullmatch(path.name)]
        times = dict(zip(found, pool.map(_submitted_at, found), strict=True))
    submitted = {path: time for path, time in times.items() if time is not None}
    return [Run(path) for path in sorted(submitted, key=submitted.__getitem__, reverse=True)]


def _submitted_at(directory: Path) -> float | None:
    # A version without a plan was not launched, or is being discarded.
    denied = () if is_remote(directory) else (PermissionError,)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, *denied):
        return modified_at(directory / "launch" / "plan.json")
    return None


def _folders(directory: Path) -> list[Path]:
    return [directory / name for name, is_folder in _entries(directory) if is_folder]


def _entries(directory: Path) -> Iterable[tuple[str, bool]]:
    """List the names in a directory, each with whether it is a directory itself."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if is_remote(directory):
            with reaching(directory):  # which is for it to say whether a bucket is missing
                fs, key = file_system(directory)
                found = fs.ls(key, detail=True)
            names = [(info["name"].rstrip("/").rpartition("/")[2], info) for info in found]
            return [(n, info["type"] == "directory") for n, info in names if not why_refused(n)]
        with contextlib.suppress(PermissionError), os.scandir(directory) as entries:
            return [(entry.name, entry.is_dir()) for entry in entries if entry.name[0] != "."]
    return []


def contents_of(directory: Path) -> str:
    """Return the first names in a directory, for a message; empty if there are none."""
    names = sorted(f"{name}/" if is_folder else name for name, is_folder in _entries(directory))
    more = ["..."] if len(names) > _MOST_NAMES else []
    return ", ".join([*names[:_MOST_NAMES], *more])
