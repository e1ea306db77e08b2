"""How long ago a running run has made its last step, against its own pace, and who holds it up."""

import statistics
import time

from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.durations import age
from getiaction_launch.plan.text import shorten
from getiaction_launch.run.beats.records import RankBeat, Stall


def last_step(status: RunStatus) -> str:
    """Say when the last step was: ``3 s ago (a step takes 0.21 s)``; empty if that is not known.

    Args:
        status: The status of the run, as it was just read.
    """
    seconds, pace = last_step_seconds(status), seconds_per_step(status)
    if seconds is None:
        return ""
    usual = f" (a step takes {_pace(pace)})" if pace else ""
    return f"{age(seconds)} ago{usual}"


def last_step_seconds(status: RunStatus) -> float | None:
    """Return how long ago the slowest rank has made its last step, in seconds.

    Args:
        status: The status of the run, as it was just read.
    """
    times = [rank.step_at for rank in _ranks(status) if rank.step_at]
    return max(0.0, time.time() - min(times)) if times else None


def seconds_per_step(status: RunStatus) -> float | None:
    """Return how long a step takes, in seconds.

    Args:
        status: The status of the run, as it was just read.
    """
    paces = [rank.seconds_per_step for rank in _ranks(status) if rank.seconds_per_step]
    return statistics.median(paces) if paces else None


def stall_of(status: RunStatus) -> Stall | None:
    """Return what was found if training stands still.

    Args:
        status: The status of the run, as it was just read.
    """
    return next((node.stall for node in status.beats if node.stall), None)


def stalled(status: RunStatus) -> str:
    """Say that training stands still, and which rank holds it up; empty if it does not.

    Args:
        status: The status of the run, as it was just read.
    """
    stall = stall_of(status)
    return f"stalled: {shorten(stall.reason)}" if stall else ""


def _ranks(status: RunStatus) -> list[RankBeat]:
    return [rank for node in status.beats for rank in node.ranks]


def _pace(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - hundredths mean nothing then
