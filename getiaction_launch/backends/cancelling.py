"""The record that a run was cancelled, on a disk that may be full."""

import time

from getiaction_launch.errors import UnreachableError
from getiaction_launch.run.records import Cancel
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import why


def record_cancel(run: Run) -> OSError | None:
    """Record that somebody cancels the run; returns why the disk refuses, if it does.

    That must not keep a job from being ended: a full disk may be the reason for the cancel.
    """
    try:
        Cancel(time.time()).write(run)
    except OSError as error:
        return error
    return None


def unrecorded(run: Run, failure: OSError) -> UnreachableError:
    """Return the error of a cancel that has ended the job, but could not be recorded."""
    return UnreachableError(
        f"run {run.name} has ended, but that it was cancelled could not be recorded: "
        f"{why(failure)}.",
        f"See its state: getiaction-launch status {run.directory}",
    )
