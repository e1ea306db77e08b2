"""How a job ended that could not record it itself."""

from dataclasses import dataclass
from typing import ClassVar

from getiaction_launch.run.records import Record
from getiaction_launch.run.state import Cause, JobState


@dataclass(frozen=True)
class JobEnd(Record):
    """``job_end.json``: how a job ended. Written by the first process that sees it.

    Attributes:
        job_id: The scheduler's name for the job that ended.
        state: How the job ended.
        cause: What ended the job, if that is known.
        reason: What ended the job, in the scheduler's words.
        seen_at: When this was seen, in seconds since the epoch.
        said: The scheduler's own words for the state, with its exit code if there was one.
    """

    NAME: ClassVar[str] = "job_end"

    job_id: str
    state: JobState
    cause: Cause | None = None
    reason: str = ""
    seen_at: float = 0
    said: str = ""
