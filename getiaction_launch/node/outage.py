"""The end of an attempt must be recorded, although storage may be what has ended it."""

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.transfer import say
from getiaction_launch.plan.plan import Plan, Uploading
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.state import Cause, JobState

PAUSE_SECONDS = 5.0
STOPPED_SECONDS = 60.0
"""How long to wait for storage if somebody has asked for the run's end."""

T = TypeVar("T")


def outlast(
    attempt: Attempt,
    act: Callable[[], T],
    is_stopped: Callable[[], bool],
    otherwise: Callable[[Ending], T],
) -> T:
    """Read how an attempt ended and record it, and try again while storage fails.

    After the plan's ``uploading.limit_minutes``, the reason is recorded on this machine alone. The
    status that is read here names it then, and the run's next attempt on this machine records it.

    Args:
        attempt: The attempt that has ended.
        act: Does all of it; called again after a StorageError.
        is_stopped: Returns whether somebody has asked for the run's end.
        otherwise: Makes the result of an attempt whose end could not be recorded on storage.
    """
    started_at, is_said = time.monotonic(), False
    while True:
        try:
            return act()
        except StorageError as error:
            waited_seconds, words = time.monotonic() - started_at, str(error).partition("\n")[0]
        if not is_said:
            say(f"the end cannot be recorded yet: {words}")
            is_said = True
        limit_seconds = _limit_seconds(attempt)
        if waited_seconds > (
            min(limit_seconds, STOPPED_SECONDS) if is_stopped() else limit_seconds
        ):
            break
        time.sleep(PAUSE_SECONDS)
    ending = Ending(JobState.FAILED, Cause.CRASH, f"storage failed: {words}")
    say(ending.reason)
    with contextlib.suppress(OSError):  # then the job's log is all there is
        attempt.end_here(ending)
    return otherwise(ending)


def _limit_seconds(attempt: Attempt) -> float:
    with contextlib.suppress(OSError, ValueError):  # the copy of a plan, if this machine has one
        return Plan.of(attempt.run.local).uploading.limit_minutes * 60
    return Uploading().limit_minutes * 60
