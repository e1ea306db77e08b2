"""Where a run stands and why it ended, in the same words on every backend."""

from enum import Enum

EXIT_INTERRUPTED = 75
"""Exit code of a worker or node that stopped on request, having saved if that was possible.

EX_TEMPFAIL of BSD's sysexits.h.
"""


class JobState(str, Enum):
    """Where a job, or one attempt of its run, stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_over(self) -> bool:
        """Whether the job or attempt has ended."""
        return self in _OVER


_OVER = {JobState.INTERRUPTED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


class Cause(str, Enum):
    """What ended an attempt that did not finish training."""

    CRASH = "crash"
    OUT_OF_MEMORY = "out of memory"
    NODE_FAILURE = "node failure"
    TIME_LIMIT = "time limit"
    PREEMPTION = "preemption"
    STALL = "stall"
    STOP = "stop"
    CANCEL = "cancel"
