"""Finds the runs that a user names: each by its own name, or all points of a sweep by the group."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from getiaction_launch.errors import RunNotFoundError, UsageError
from getiaction_launch.launch.listing.below import look_for_other
from getiaction_launch.launch.status import sweeps_of
from getiaction_launch.launch.sweep import GROUP
from getiaction_launch.run.reading.find import claimed_runs, find_run
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import is_remote, modified_at, open_path


def find_runs(
    names: Sequence[str], roots: Sequence[str], only: str = "", *, is_any: bool = False
) -> list[Run]:
    """Find all runs that are named, each once.

    Args:
        names: Directories, URLs, ``name/version_N``, ``@last``, or sweeps as ``ls`` shows them.
        roots: Paths or URLs of the directories in which to look; the first one's error is shown.
        only: A command that takes one run for each name, and so no sweep; empty if sweeps fit.
        is_any: Whether runs that this launcher has not started fit, too, such as those of
            `getiaction fit`.

    Raises:
        RunNotFoundError: If a name means no run, or one of another program where none fits.
        UsageError: If a name means other runs in another root, or a sweep where none fits.
    """
    found: dict[str, Run] = {}
    for name in names:
        runs = _find(name, list(dict.fromkeys(roots)), is_any=is_any)
        if only and len(runs) > 1:
            raise UsageError(
                f"{name!r} is a sweep of {len(runs)} runs, from {runs[0].name} to {runs[-1].name}.",
                f"Name one of them: {only} {runs[0].directory}",
            )
        for run in runs:
            found.setdefault(str(run.directory), run)
    return list(found.values())


def _find(name: str, roots: Sequence[str], *, is_any: bool) -> list[Run]:
    places: dict[str, list[Run]] = {}
    errors: list[RunNotFoundError] = []
    for root in roots:
        try:
            runs = [find_run(name, root)]
        except RunNotFoundError as error:
            errors.append(error)
            runs = [] if name == "@last" else _sweep(name, root)
        if runs:
            places.setdefault(str(runs[0].directory), runs)
    if not places and name == "@last":
        raise errors[0]
    if not places and (other := _other(name, roots)):
        if is_any:
            return [other]
        raise RunNotFoundError(
            f"run {other.name} was not started by this launcher, which has neither its job nor its "
            "logs.",
            f"What is known of it: getiaction-launch status {shlex.quote(str(other.directory))}",
        )
    if not places:
        raise RunNotFoundError(
            f"no such run: {name!r} is neither a run's directory, nor name/version_N or a sweep "
            f"under {roots[0]}.",
            errors[0].fix,
        )
    if name == "@last" and len(places) > 1:
        return max(places.values(), key=lambda runs: _submitted_at(runs[0]))
    if len(places) > 1:
        raise UsageError(
            f"{name!r} is a run in {' and in '.join(roots)}.", f"Name its directory: {min(places)}"
        )
    return next(iter(places.values()))


def _other(name: str, roots: Sequence[str]) -> Run | None:
    """Return the run of another program that a name means, such as one of `getiaction fit`."""
    here = [] if "://" in name else [open_path(root) / name for root in roots]
    for directory in [open_path(name), *here]:
        place = directory if is_remote(directory) else Path(os.path.abspath(directory))  # noqa: PTH100 - links stay as typed
        if found := look_for_other(place):
            return found.run
    return None


def _sweep(group: str, root: str) -> list[Run]:
    """Return the runs of a sweep, the first point first."""
    if not is_remote(open_path(root)):
        return [] if "/" in group else _points(group, claimed_runs(root))
    if not (match := GROUP.fullmatch(group)):
        return []  # which no sweep is called, so that the plans of all runs need not be read
    # Runs of a sweep that was given a name have the same; those of others may have any.
    return _points(group, claimed_runs(root, match[1])) or _points(group, claimed_runs(root))


def _points(group: str, runs: Sequence[Run]) -> list[Run]:
    found = sweeps_of(runs)
    points = [r for r, point in zip(runs, found, strict=True) if point and point.group == group]
    return sorted(points, key=lambda run: (len(run.name), run.name))


def _submitted_at(run: Run) -> float:
    return modified_at(run.launch_directory / "plan.json")
