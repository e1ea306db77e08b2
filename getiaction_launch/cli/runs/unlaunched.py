"""What is known of a run that this launcher has not started: its curves, checkpoints and times."""

import time
from dataclasses import replace
from pathlib import Path

from getiaction_launch.cli import show
from getiaction_launch.launch.listing.entry import entries_of
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.durations import age, duration
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, modified_at


def with_metrics(status: RunStatus) -> RunStatus:
    """Return the status with the metrics of the run's curves, if only these have any.

    Args:
        status: The status of the run, as it was just read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    if not status.unlaunched:
        return status
    from getiaction_launch.report.contents.scalars import last_values, read_curves  # slow to import

    notes: list[str] = []
    progress = last_values(read_curves(status.run, notes))
    for note in notes:
        show.say(f"warning: {status.run.name}: {note}")
    return replace(status, progress=progress)


def text(status: RunStatus) -> str:
    """Show what is known of the run.

    Args:
        status: The status of the run, with its metrics.
    """
    run, found = status.run, status.unlaunched
    rows = [("run", f"{run.name} {status.shown_state}"), ("directory", show.short(run.directory))]
    rows += [("reason", status.reason)]
    if found and found.last_written_at:
        seconds = found.last_written_at - found.submitted_at
        words = (
            f"{age(time.time() - found.last_written_at)} ago, {duration(seconds)} after it began"
        )
        rows += [("last written", words)]
    if status.progress.metrics:
        rows += [("metrics", show.final_loss(status.progress))]
    if checkpoint := _checkpoint(run):
        rows += [("checkpoint", f"{show.short(checkpoint)}  (last)")]
    place = show.short(run.directory)
    rows += [("report", f"getiaction-launch report {place}")]
    return show.table([*rows, ("tensorboard", f"tensorboard --logdir {place}")])


def as_json(status: RunStatus) -> dict[str, object]:
    """Return the same for machines; nothing of a run that this launcher has started.

    Args:
        status: The status of the run, with its metrics.
    """
    if not status.unlaunched:
        return {}
    (entry,) = entries_of([status])
    checkpoint = _checkpoint(status.run)
    return {
        "last_written_at": status.unlaunched.last_written_at,
        "elapsed_seconds": entry.elapsed_seconds,
        "checkpoint": str(checkpoint) if checkpoint else None,
        "checkpoint_step": entry.checkpoint_step,
    }


def _checkpoint(run: Run) -> Path | None:
    files = [path for path in children(run.directory / "checkpoints") if path.suffix == ".ckpt"]
    return max(files, key=modified_at, default=None)
