"""Cancelling a run: the record of it, on a disk that may be full, and waiting for the end."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

from getiaction_launch.errors import UnreachableError
from getiaction_launch.run.records import Cancel
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import why
from getiaction_launch.system.users import user_name


def cancel_now() -> Cancel:
    """Return the record of a cancellation by this user, at this time."""
    return Cancel(time.time(), f"{user_name(os.geteuid())} on {socket.gethostname()}")


def record_cancel(run: Run) -> OSError | None:
    """Record that somebody cancels the run; returns why the disk refuses, if it does.

    That must not keep a job from being ended: a full disk may be the reason for the cancel.
    """
    try:
        cancel_now().write(run)
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def cancelling(run: Run) -> Iterator[OSError | None]:
    """Write ``cancel.json``, and take it back if the block, which ends the job, raises.

    The job reads it when the signal arrives, so it must be there before. If it stayed although the
    scheduler was not reached, a crash or a requeue hours later would count as the cancellation. If
    the scheduler has ended the job after all, the scheduler says so.

    Yields:
        Why the disk refuses to record it, if it does.
    """
    before = None
    with contextlib.suppress(OSError, ValueError):  # damaged, or storage does not answer
        before = Cancel.read(run)
    try:
        yield record_cancel(run)
    except BaseException:
        if before is None:
            with contextlib.suppress(OSError):
                Cancel.remove(run)
        raise


def unrecorded(run: Run, failure: OSError) -> UnreachableError:
    """Return the error of a cancel that has ended the job, but could not be recorded."""
    return UnreachableError(
        f"run {run.name} has ended, but that it was cancelled could not be recorded: "
        f"{why(failure)}.",
        f"See its state: getiaction-launch status {run.directory}",
    )


def comes_within(limit_seconds: float, condition: Callable[[], bool], poll_seconds: float) -> bool:
    """Wait until a condition holds, and return whether it did before a limit.

    Args:
        limit_seconds: How long to wait at most.
        condition: What to wait for; it is checked at least once.
        poll_seconds: Time between two checks.
    """
    deadline = time.monotonic() + limit_seconds
    while not (is_met := condition()) and time.monotonic() < deadline:
        time.sleep(poll_seconds)
    return is_met
