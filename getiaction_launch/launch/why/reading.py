"""Everything that is recorded of a run, whatever of it can be read."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.errors import LaunchError
from getiaction_launch.launch.status import RunStatus, attach, read_status
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.text import shorten
from getiaction_launch.run.attempt import attempts_of
from getiaction_launch.run.beats import NodeBeats, read_beats
from getiaction_launch.run.checkpoint import Checkpoint, newest
from getiaction_launch.run.records import AttemptRecord, Cancel, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState


@dataclass
class Records:
    """What could be read of a run; what is damaged is named and left out."""

    status: RunStatus
    plan: Plan | None = None
    job: JobRecord | None = None
    job_status: JobStatus | None = None
    resume: str | None = None
    attempts: list[AttemptRecord] = field(default_factory=list)
    beats: list[NodeBeats] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    cancel: Cancel | None = None
    damaged: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, run: Run) -> "Records":
        """Read everything, whatever of it can be read."""
        found = cls(read_status(run))
        with found.noting():
            found.plan = Plan.of(run)
        with found.noting():
            found.job = JobRecord.read(run)
        with found.noting():
            found.attempts = attempts_of(run)
        with found.noting():
            found.checkpoint = newest(run)
        with found.noting():
            found.cancel = Cancel.read(run)
        found.beats = list(found.status.beats)
        if found.attempts and not found.beats:
            with found.noting():
                found.beats = read_beats(run, found.attempts[-1].number)
        if found.job and found.status.state is not JobState.SUCCEEDED:
            with found.noting():
                if job := attach(run):
                    found.resume = job.resume_command
                    found.job_status = found.status.job or job.status()
        return found

    @property
    def keeps_own(self) -> bool:
        """Whether the program, and not the launcher, keeps the checkpoints to resume from."""
        is_told = bool(self.plan and self.plan.resume_args)
        return self.checkpoint is None and (self.status.progress.is_own or is_told)

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Keep what cannot be read, in words."""
        try:
            yield
        except (LaunchError, OSError, ValueError) as problem:
            line = shorten(str(problem).partition("\n")[0])
            if line not in self.damaged:
                self.damaged.append(line)
