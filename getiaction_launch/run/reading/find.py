"""Finds the runs under a root: all of them, the last one, or the one that a user has named.

On remote storage, each look is paid for, and a root may hold thousands of runs: only a list of all
runs reads something of each.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from getiaction_launch.errors import RunNotFoundError, nearest_first
from getiaction_launch.plan.secrets import refuse_login
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import (
    children,
    is_remote,
    modified_at,
    open_path,
    read_bytes,
)

_VERSION = re.compile(r"version_(\d+)")
_MOST_NAMED = 5


def _open(place: str) -> Path:
    """Open a path or a URL of runs, which errors may show."""
    refuse_login(place)
    return open_path(place)


def list_runs(root: str) -> list[Run]:
    """List all launched runs under a path or URL, the one that was submitted last first."""
    found = _submitted(claimed_runs(root), _open(root))
    return [run for run, _ in sorted(found, key=lambda each: each[1], reverse=True)]


def claimed_runs(root: str, name: str | None = None) -> list[Run]:
    """List all directories of versions under a path or URL, whether they were launched or not.

    Args:
        root: Path or URL of the directory for all runs.
        name: Name of the runs, without a version; None for all names.
    """
    place = _open(root)
    place = place if is_remote(place) else place.absolute()
    names = _names(place) if name is None else [place / name]
    return [run for runs in for_each(_versions, names, place) for run in runs]


def _names(root: Path) -> list[Path]:
    return [path for path in _below(root) if not path.name.startswith(".")]


def _versions(name: Path) -> list[Run]:
    """Return the runs of a name, the highest version first."""
    found = [(int(m[1]), path) for path in _below(name) if (m := _VERSION.fullmatch(path.name))]
    return [Run(path) for _, path in sorted(found, key=lambda each: each[0], reverse=True)]


def _below(directory: Path) -> list[Path]:
    with contextlib.suppress(PermissionError):  # another user's runs must not hide one's own
        return children(directory)
    return []


def _submitted(runs: list[Run], place: Path) -> list[tuple[Run, float]]:
    """Return those of the runs that were launched, with the time of their submission."""
    times = for_each(_submitted_at, runs, place)
    return [(run, at) for run, at in zip(runs, times, strict=True) if at is not None]


def _submitted_at(run: Run) -> float | None:
    plan = run.launch_directory / "plan.json"
    # A version without a plan was not launched, or is being discarded.
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        # A link that leads to itself is there, too: who reads it says what is wrong.
        return modified_at(plan) if is_remote(plan) else plan.lstat().st_mtime
    return None


def last_run(root: str) -> Run | None:
    """Return the run under a path or URL that was submitted last; None if there is none.

    On remote storage, the highest version of each name stands for all of them, so that two requests
    for each name are enough.
    """
    place = _open(root)
    if not is_remote(place):
        return next(iter(list_runs(root)), None)
    found = [each for each in for_each(_last_of_name, _names(place), place) if each]
    return max(found, key=lambda each: each[1])[0] if found else None


def _last_of_name(name: Path) -> tuple[Run, float] | None:
    for run in _versions(name):
        if (at := _submitted_at(run)) is not None:
            return run, at
    return None


def find_run(reference: str, root: str) -> Run:
    """Find the run that a user has named.

    Args:
        reference: The run's directory or URL, ``name/version_N`` under ``root``, or ``@last``.
        root: Path or URL of the directory in which to look for runs.

    Raises:
        RunNotFoundError: If there is no such run.
    """
    if reference == "@last":
        if last := last_run(root):
            return last
        raise RunNotFoundError(
            f"there are no runs under {root}.", "Choose another root: --root PATH"
        )
    here = [] if "://" in reference else [_open(root) / reference]
    for directory in [_open(reference), *here]:
        if _is_run(directory):
            if is_remote(directory):
                return Run(directory)
            return Run(Path(os.path.abspath(directory)))  # noqa: PTH100 - links stay as typed
    raise RunNotFoundError(
        f"no such run: {reference!r} is neither a run's directory nor name/version_N under {root}.",
        _runs_there(reference, root) or "Choose another root: --root PATH",
    )


def _runs_there(reference: str, root: str) -> str:
    """Say which runs there are instead; empty if there are none."""
    place = _open(root)
    if not is_remote(place):
        latest = _named(list_runs(root))
        return f"The latest runs there: {latest}." if latest else ""
    # With a request or two, however many runs there are.
    name = reference.partition("/")[0]
    if versions := _named(_versions(place / name)):
        return f"The latest versions there: {versions}."
    return nearest_first(name, [path.name for path in _names(place)])


def _named(runs: Iterable[Run]) -> str:
    return ", ".join([run.name for run in runs][:_MOST_NAMED])


def _is_run(directory: Path) -> bool:
    plan = directory / "launch" / "plan.json"
    if not is_remote(plan):
        return os.path.lexists(plan)  # whatever it is: who reads it says what is wrong
    try:
        # Read, because storage says in words why it refuses that, and not why it refuses a look.
        read_bytes(plan)
    except FileNotFoundError:
        return False
    return True
