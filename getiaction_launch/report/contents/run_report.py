"""Everything that a page says about one run, read from its directory; nothing is written there."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from getiaction_launch.errors import RecordError
from getiaction_launch.launch.attempts import read_all_attempts
from getiaction_launch.launch.listing.better import is_lower_better
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.plan import Plan
from getiaction_launch.report.contents import curves as drawn
from getiaction_launch.report.contents.beats import read_beats
from getiaction_launch.report.contents.checkpoints import SavedState, read_checkpoints
from getiaction_launch.report.contents.environment import read_environment
from getiaction_launch.report.contents.ranks import Spread, spread
from getiaction_launch.report.contents.scalars import Curve, last_values, read_curves
from getiaction_launch.report.contents.spec import Value, masked_words, read_values
from getiaction_launch.report.contents.timeline import Event, Timeline, read_timeline
from getiaction_launch.run.attempt import attempts_of
from getiaction_launch.run.metric import shown_metric, warnings
from getiaction_launch.run.records import JobRecord, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import is_remote, modified_at

T = TypeVar("T")


@dataclass(frozen=True)
class RunReport:
    """What a page says about one run.

    Attributes:
        name: Name of the run: ``name/version_N``.
        directory: Its directory or URL.
        state: Where the run stands.
        reason: Why it stands there; empty for a run that has finished.
        warnings: What the training loss and the metric warn of.
        step: Steps so far; None if none has been reported.
        total_steps: Steps of the whole training, if that is known.
        epoch: The current epoch, from 0; None if none has been reported.
        seconds_per_step: Mean duration of a step in the last attempt, in seconds.
        metrics: The last value of each metric.
        metric: Name of the metric that stands for the run; None if there is none.
        last: Last value of that metric.
        best: Best value of that metric; None if it is not known which is better.
        lower_is_better: Whether a lower value of the metric is better; None if that is not known.
        submitted_at: When the run was first submitted, in seconds since the epoch.
        sweep: The run's values in its sweep; empty for a run on its own.
        timeline: What happened, in order.
        groups: The curves of its charts, thinned.
        throughput: Steps per second over the steps; None if no times were logged.
        marks: At which steps attempts have continued.
        spread: How fast each rank was in the last attempt that says so; None if none does.
        checkpoints: The checkpoints that are there.
        values: The values of the spec, or the hyperparameters of a script.
        script: The path of the script, if the program is one; otherwise empty.
        command: The words of a command that starts the same run.
        environment: On what it was trained, by name.
        notes: What could not be read, in sentences.
    """

    name: str
    directory: str
    state: str
    reason: str
    warnings: list[str] = field(default_factory=list)
    step: int | None = None
    total_steps: int | None = None
    epoch: int | None = None
    seconds_per_step: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    metric: str | None = None
    last: float | None = None
    best: float | None = None
    lower_is_better: bool | None = None
    submitted_at: float | None = None
    sweep: dict[str, str] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    groups: list[drawn.Group] = field(default_factory=list)
    throughput: drawn.Group | None = None
    marks: list[drawn.Mark] = field(default_factory=list)
    spread: Spread | None = None
    checkpoints: list[SavedState] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    script: str = ""
    command: list[str] = field(default_factory=list)
    environment: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_report(status: RunStatus) -> RunReport:
    """Read everything about a run; what cannot be read becomes a note.

    Args:
        status: The status of the run, as it was just read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    run, notes = status.run, list[str]()
    progress = status.progress
    if not progress.reported:  # a job whose state cannot be read hides what its worker wrote
        progress = _tried(lambda: Progress.read(run), notes) or progress
    plan = None if status.unlaunched else _tried(lambda: Plan.of(run), notes)
    job = _tried(lambda: JobRecord.read(run), notes)
    attempts = _tried(lambda: read_all_attempts(status) or attempts_of(run), notes) or []
    if len(attempts) < status.attempts:
        missing = status.attempts - len(attempts)
        notes.append(f"{missing} of the records of {status.attempts} attempts cannot be read")
    beats = read_beats(run, notes)
    curves = read_curves(run, notes)
    if status.unlaunched:
        progress = last_values(curves)
    metric = shown_metric(progress)
    curve = curves.get(metric or "") or curves.get(f"{metric}_epoch")
    is_finished = status.state is JobState.SUCCEEDED
    saved = read_checkpoints(run, progress, curve, is_finished=is_finished, notes=notes)
    is_lower = _is_lower_better(metric, progress, curve)
    submitted_at = _submitted_at(run, job)
    timeline = read_timeline(
        attempts,
        submitted_at=submitted_at,
        state=status.state,
        beats=beats,
        curves=curves,
        events=[
            Event(state.saved_at, state.step, state.path)
            for state in saved
            if state.saved_at is not None
        ],
        resubmitted_at=job.submitted_at if job else None,
        last_seen=_last_seen(progress, curves),
    )
    starts = [attempt.started_at for attempt in attempts]
    spreads = [
        spread(beats[attempt.number], attempt.first_step)
        for attempt in reversed(attempts)
        if attempt.number in beats
    ]
    directory = run.directory
    return RunReport(
        name=run.name,
        directory=str(directory if is_remote(directory) else directory.absolute()),
        state=status.shown_state,
        reason=status.reason,
        warnings=warnings(progress),
        step=progress.step,
        total_steps=progress.total_steps,
        epoch=progress.epoch,
        seconds_per_step=progress.seconds_per_step,
        metrics=progress.metrics,
        metric=metric,
        last=progress.metrics.get(metric) if metric else None,
        best=_best(metric, progress.best, curve, is_lower=is_lower),
        lower_is_better=is_lower,
        submitted_at=submitted_at,
        sweep=dict(plan.sweep.values) if plan and plan.sweep else {},
        timeline=timeline,
        groups=drawn.groups(curves, metric),
        throughput=_throughput(curves, starts),
        marks=drawn.marks(curves, attempts),
        spread=next(filter(None, spreads), None),
        checkpoints=saved,
        values=read_values(run, plan, notes),
        script=plan.script[0] if plan and plan.script else "",
        command=["getiaction-launch", *masked_words(plan.words)] if plan and plan.words else [],
        environment=read_environment(plan, job, attempts, beats),
        notes=list(dict.fromkeys(notes)),
    )


def _throughput(curves: dict[str, Curve], starts: list[float]) -> drawn.Group | None:
    rates = drawn.throughput(curves, starts)
    if rates is None:
        return None
    line = drawn.line("steps per second", rates)
    return drawn.Group(drawn.THROUGHPUT, "steps/s", [line], is_from_zero=True)


def _tried(read: Callable[[], T | None], notes: list[str]) -> T | None:
    try:
        return read()
    except RecordError as error:
        notes.append(error.what)
        return None


def _last_seen(progress: Progress, curves: dict[str, Curve]) -> float | None:
    signs = [curve.times[-1] for curve in curves.values() if curve.times]
    signs += [progress.updated_at] if progress.updated_at else []
    return max(signs, default=None)


def _submitted_at(run: Run, job: JobRecord | None) -> float | None:
    if job and job.submitted_at and not job.previous_job_ids:
        return job.submitted_at
    with contextlib.suppress(OSError):
        return modified_at(run.launch_directory / "plan.json")
    return None


def _is_lower_better(metric: str | None, progress: Progress, curve: Curve | None) -> bool | None:
    """Return which values of a metric are better, by what its ModelCheckpoint has kept or its name.

    The record of an earlier version does not say whether a ``ModelCheckpoint`` looks for the lowest
    or the highest value, but the value that it has kept is one of the two.
    """
    if metric is None:
        return None
    values = [value for value in curve.values if math.isfinite(value)] if curve else []
    best = progress.best
    if metric not in progress.modes and metric in best and values and min(values) < max(values):
        return abs(best[metric] - min(values)) <= abs(best[metric] - max(values))
    return is_lower_better(metric, progress.modes)


def _best(
    metric: str | None, best: dict[str, float], curve: Curve | None, *, is_lower: bool | None
) -> float | None:
    if metric in best:
        return best[metric]
    values = [value for value in curve.values if math.isfinite(value)] if curve else []
    if not values or is_lower is None:
        return None
    return min(values) if is_lower else max(values)
