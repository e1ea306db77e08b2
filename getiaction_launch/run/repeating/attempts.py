"""Whether attempts repeat each other, so that another one would train the same again."""

from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.finished import finished_fits
from getiaction_launch.run.reading.newest import newest_record
from getiaction_launch.run.records import AttemptRecord, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause

EPOCH_RESTARTS = 2
"""How often an epoch may begin anew before the run is not restarted any more."""


def stands_still(run: Run, cause: Cause) -> bool:
    """Return whether the last two attempts ended for the same cause and saved nothing in between.

    Args:
        run: The run that was restarted.
        cause: What ended the last one, which its record may not say yet.
    """
    last = newest_record(run)
    before = AttemptRecord.read(run, last.number - 1) if last and last.number else None
    if last is None or before is None:
        return False
    progress = Progress.read(run)
    if cause is Cause.TIME_LIMIT and progress is None:
        return False  # a program that reports no progress may keep its state itself
    if before.cause != cause:
        return False  # a preemption may come before the first step, and again
    if progress and progress.is_own:
        # Only the program knows its checkpoints; where it has begun shows whether it had any.
        return (progress.first_step or 0) <= before.first_step
    if any(fit.attempt >= before.number for fit in finished_fits(run).values()):
        return False
    checkpoint = newest(run)
    path = str(checkpoint.path) if checkpoint else None
    return before.resume_from == last.resume_from == path


def repeated_epoch(run: Run) -> str | None:
    """Say which epoch is begun anew in every attempt; None if none is.

    Args:
        run: The run that was restarted.
    """
    checkpoint = newest(run)
    if checkpoint is None or (checkpoint.restarts or 0) < EPOCH_RESTARTS:
        return None
    return (
        f"epoch {checkpoint.epoch} was begun anew {checkpoint.restarts} times and not finished, "
        "since its data loader does not resume; give it state_dict() and load_state_dict(), or "
        "make the epoch shorter with limit_train_batches"
    )
