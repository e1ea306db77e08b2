"""Which checkpoints a run has: the launcher's own and those of the user's callbacks."""

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.report.contents.scalars import Curve
from getiaction_launch.run.checkpoint import all_committed, size_bytes_of
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, is_remote, modified_at

_MOST = 200
_STEP, _EPOCH = re.compile(r"step=(\d{1,12})"), re.compile(r"epoch=(\d{1,9})")
_WHY = {"period": "saved regularly", "interruption": "saved before it stopped"}


@dataclass(frozen=True)
class SavedState:
    """One checkpoint.

    Attributes:
        path: Its path relative to the run's directory.
        step: Steps up to it; None if that is not known.
        epoch: The epoch in which it was saved; None if that is not known.
        size_bytes: Size of the file, or of all files in the directory.
        saved_at: When it was saved, in seconds since the epoch; None if that is not known.
        roles: What it is: ``best``, ``last``, ``resume starts here``, or why it was saved.
        metric: Value of the run's metric at that step; None if that is not known.
    """

    path: str
    step: int | None
    epoch: int | None
    size_bytes: int
    saved_at: float | None
    roles: list[str]
    metric: float | None = None


def read_checkpoints(
    run: Run, progress: Progress, curve: Curve | None, *, is_finished: bool, notes: list[str]
) -> list[SavedState]:
    """Read which checkpoints there are, the one of the highest step first.

    Args:
        run: The run to read.
        progress: What the worker of rank 0 last reported.
        curve: The curve of the metric that stands for the run; None if there is none.
        is_finished: Whether training has finished, so that nothing will be resumed.
        notes: Gets a sentence for each place that cannot be read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    reported: dict[str, list[str]] = {}
    for role, path in progress.checkpoints.items():
        reported.setdefault(path, []).append(role)
    try:
        found = _committed(run, curve, is_finished=is_finished)
        found += _users(run, reported, curve)
    except (ValueError, NotADirectoryError, PermissionError) as error:
        notes.append(f"The checkpoints cannot be listed: {error}.")
        return []
    known = {state.path for state in found}
    found += [
        SavedState(path, _number(_STEP, path), _number(_EPOCH, path), 0, None, roles)
        for path, roles in reported.items()
        if path not in known
    ]
    return sorted(found, key=lambda state: (-(state.step or 0), state.path))[:_MOST]


def _committed(run: Run, curve: Curve | None, *, is_finished: bool) -> list[SavedState]:
    committed = all_committed(run)
    return [
        SavedState(
            *(f"launch/checkpoints/{own.path.name}", own.step, own.epoch, own.size_bytes),
            saved_at=own.saved_at,
            roles=[
                _WHY.get(own.reason, own.reason),
                *(["resume starts here"] if own is committed[-1] and not is_finished else []),
            ],
            metric=_metric(curve, own.step),
        )
        for own in committed
    ]


def _users(run: Run, reported: Mapping[str, list[str]], curve: Curve | None) -> list[SavedState]:
    found = []
    paths = [p for p in children(run.directory / "checkpoints") if p.suffix == ".ckpt"]
    for path in sorted(paths)[:_MOST]:
        place = f"checkpoints/{path.name}"
        size_bytes, saved_at = _look(path)
        if size_bytes is None:
            continue
        step = _number(_STEP, path.name)
        found.append(
            SavedState(
                *(place, step, _number(_EPOCH, path.name), size_bytes, saved_at),
                roles=reported.get(place, []),
                metric=_metric(curve, step),
            )
        )
    return found


def _look(path: Path) -> tuple[int | None, float | None]:
    """Return the size of a checkpoint, and when it was saved; no size for a link that is broken."""
    try:
        size_bytes = size_bytes_of(path)
    except FileNotFoundError:
        return None, None
    return size_bytes, None if is_remote(path) else modified_at(path)


def _number(pattern: re.Pattern[str], name: str) -> int | None:
    found = pattern.search(name)
    return int(found[1]) if found else None


def _metric(curve: Curve | None, step: int | None) -> float | None:
    if curve is None or step is None:
        return None
    place = bisect_right(curve.steps, step)
    return curve.values[place - 1] if place else None
