"""An attempt must begin, and its end be recorded, although storage fails at that moment."""

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.compaction import compact
from getiaction_launch.mirror.transfer import say
from getiaction_launch.node.guard import CONFIRM_SECONDS, Guard
from getiaction_launch.node.messages.notices import notify_end
from getiaction_launch.plan.plan import Plan, Uploading
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.run import REMOVING, Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import is_remote

PAUSE_SECONDS = 5.0
STOPPED_SECONDS = 60.0
"""How long to wait for storage if somebody has asked for the run's end."""
REMOVAL_SECONDS = 60.0
"""How long to wait at most for the end of a removal, before what has come behind it is removed."""

T = TypeVar("T")


def persist(run: Run, what: str, act: Callable[[], T], is_stopped: Callable[[], bool]) -> T:
    """Do something on storage, and try again while storage fails.

    Args:
        run: The run that it is for, whose plan has ``uploading.limit_minutes``.
        what: What cannot be done meanwhile, for the log: "the end cannot be recorded".
        act: Does it; called again after a StorageError, so a second call must do no harm.
        is_stopped: Returns whether somebody has asked for the run's end.

    Raises:
        StorageError: If storage still fails after the plan's ``uploading.limit_minutes``, or after
            :data:`STOPPED_SECONDS` if somebody has asked for the run's end.
    """
    started_at, is_said = time.monotonic(), False
    while True:
        try:
            return act()
        except StorageError as error:
            limit_seconds = _limit_seconds(run)
            if is_stopped():
                limit_seconds = min(limit_seconds, STOPPED_SECONDS)
            if time.monotonic() - started_at > limit_seconds:
                raise
            if not is_said:
                say(f"{what} yet: {_first_line(error)}")
                is_said = True
        time.sleep(PAUSE_SECONDS)


def outlast(
    attempt: Attempt,
    act: Callable[[], T],
    is_stopped: Callable[[], bool],
    otherwise: Callable[[Ending], T],
) -> T:
    """Read how an attempt ended and record it, and try again while storage fails.

    If storage fails for too long, the reason is recorded on this machine alone. The status that is
    read here names it then, and the run's next attempt on this machine records it.

    Args:
        attempt: The attempt that has ended.
        act: Does all of it; called again after a StorageError.
        is_stopped: Returns whether somebody has asked for the run's end.
        otherwise: Makes the result of an attempt whose end could not be recorded on storage.
    """
    try:
        return persist(attempt.run, "the end cannot be recorded", act, is_stopped)
    except StorageError as error:
        ending = Ending(JobState.FAILED, Cause.CRASH, f"storage failed: {_first_line(error)}")
    say(ending.reason)
    with contextlib.suppress(OSError):  # then the job's log is all there is
        attempt.end_here(ending)
    notify_end(attempt, ending)
    return otherwise(ending)


def end(attempt: Attempt, ending: Ending) -> None:
    """Record how an attempt ended, and send it if the run has finished or failed.

    If it has finished, its curves are joined on remote storage. That comes last, as it may take a
    while: a time limit that is reached then does the run no harm.
    """
    attempt.end(ending)
    notify_end(attempt, ending)
    if ending.state is JobState.SUCCEEDED and is_remote(attempt.run.directory):
        _join_curves(attempt.run)


def _join_curves(run: Run) -> None:
    """Join them, and leave nothing if somebody removes the run meanwhile, as anybody may now."""
    guard, deadline = Guard(run), time.monotonic() + REMOVAL_SECONDS
    compact(run)
    with contextlib.suppress(OSError, ValueError):
        while run.read(REMOVING) is not None and time.monotonic() < deadline:
            if guard.confirm_loss():
                break
            time.sleep(CONFIRM_SECONDS)
        if guard.confirm_loss():
            guard.remove_leftovers()


def _first_line(error: StorageError) -> str:
    return str(error).partition("\n")[0]


def _limit_seconds(run: Run) -> float:
    with contextlib.suppress(OSError, ValueError):  # the copy of a plan, if this machine has one
        return Plan.of(run.local).uploading.limit_minutes * 60
    return Uploading().limit_minutes * 60
