"""A SLURM job that any shell has submitted: its state, and how to cancel it."""

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.slurm.command import call
from getiaction_launch.backends.slurm.identity import check_identity, check_ids
from getiaction_launch.backends.slurm.queue import Answer, ask, find_step
from getiaction_launch.errors import RefusedError, UnreachableError
from getiaction_launch.run.records import (
    AttemptRecord,
    Cancel,
    JobEnd,
    JobRecord,
    read_attempts,
)
from getiaction_launch.run.restart import CANCELLED
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import last_line, owner_of

CANCEL_SECONDS = 180
STEP_SAVE_SECONDS = 60
"""How long a step may take to end after SIGTERM before it is killed; for jobs, SLURM decides."""
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class SlurmJob:
    """A SLURM job, or a step of it if the batch script is the user's own.

    Args:
        run: The run that the job belongs to.
        record: Content of the run's ``job.json``.
        poll_seconds: How old an answer of SLURM may be, in seconds.
    """

    run: Run
    record: JobRecord
    poll_seconds: float

    def __post_init__(self) -> None:
        check_ids(self.run, self.record)

    @property
    def job_id(self) -> str:
        """Id of the job: ``123``, or ``123_4`` for an element of an array."""
        return self.record.job_id

    @property
    def resume_command(self) -> str | None:
        """Command that starts a new step in the user's own batch script; None for other runs."""
        is_step = self.record.step_id is not None
        return "srun --ntasks-per-node=1 getiaction-launch node" if is_step else None

    def status(self) -> JobStatus:
        """Return the state of the job, by SLURM's last answer and the run's later records."""
        attempts = read_attempts(self.run)
        latest = attempts[-1] if attempts else AttemptRecord()
        end = JobEnd.read(self.run)
        if end and end.job_id == self.job_id and latest.started_at <= end.seen_at:
            return JobStatus(end.state, end.reason, end.cause)
        answer = self._ask()
        has_begun = latest.started_at > answer.as_of and latest.ended_at is None
        if answer.state is JobState.PENDING and has_begun:
            return JobStatus(JobState.RUNNING)
        if answer.state is JobState.RUNNING and (latest.ended_at or 0) > answer.as_of:
            return JobStatus(JobState.PENDING, "requeued")
        # If the user's own batch script was requeued, the step that has ended is not in SLURM.
        is_requeued_step = self.record.step_id is not None and answer.state is JobState.PENDING
        if (_has_gone(answer) or is_requeued_step) and Cancel.read(self.run):
            reason, cause = CANCELLED.reason, CANCELLED.cause
            answer = Answer(CANCELLED.state, reason, cause, as_of=answer.as_of)
        elif answer.state is JobState.RUNNING and self._has_lost_step():
            lost = (JobState.FAILED, "its step ended without recording why", Cause.NODE_FAILURE)
            return JobStatus(*lost)  # not recorded: the batch script may start another step
        if answer.state is JobState.FAILED and not attempts:
            answer = replace(answer, reason=f"{answer.reason}{self._last_words()}")
        if answer.state.is_over:
            # SLURM forgets jobs, and many sites have no accounting that remembers them.
            ending = answer.state, answer.cause, answer.reason
            with contextlib.suppress(OSError):  # only the run's owner can write it
                JobEnd(self.job_id, *ending, seen_at=time.time()).write(self.run)
        return answer

    def _last_words(self) -> str:
        """Return the last line of SLURM's log of a job that ended before a node wrote its own."""
        log = Path(self.record.output or "")
        # Another file may hold what the owner of the record must not see: this is written to it.
        last = last_line(log) if log.name == f"{self.job_id}_0_log.out" else None
        if last is None:
            return ""
        return f": {last} (see {log})" if last else f" (see {log})"

    def _ask(self, *, fresh: bool = False) -> Answer:
        submitted_at = self.record.submitted_at
        uid = owner_of(self.run.launch_directory)
        return ask(self.job_id, uid, self.poll_seconds, submitted_at, fresh=fresh)

    def _has_lost_step(self) -> bool:
        if self.record.step_id is None:
            return False
        uid = owner_of(self.run.launch_directory)
        submitted_at = self.record.submitted_at
        return find_step(self._target, uid, self.poll_seconds, submitted_at) is False

    def cancel(self) -> None:
        """End the job, and return once SLURM has none of its processes any more.

        Raises:
            UnreachableError: If SLURM does not answer, or the job does not end.
        """
        if self._ask(fresh=True).state.is_over:
            return
        check_identity(self.run, self.record)
        # Write this first: the job reads it when it gets SIGTERM, and then is never requeued.
        Cancel(time.time()).write(self.run)
        # By default scancel sends a step SIGKILL at once.
        said = (
            self._scancel("--signal=TERM") if self.record.step_id is not None else self._scancel()
        )
        started_at = time.monotonic()
        while not self._has_gone():
            if self._ask().state is JobState.PENDING:
                self._scancel()  # it was requeued at the moment of the first scancel
            waited_seconds = time.monotonic() - started_at
            if self.record.step_id is not None and waited_seconds > STEP_SAVE_SECONDS:
                self._scancel()
            if said or waited_seconds > CANCEL_SECONDS:
                raise UnreachableError(
                    f"job {self._target} of run {self.run.name} does not end: "
                    f"{said or f'SLURM still has it {CANCEL_SECONDS} s after scancel'}.",
                    f"Find out why: scontrol show job {self.job_id}",
                )
            time.sleep(POLL_SECONDS)
        latest = JobRecord.read(self.run)
        if latest and latest.job_id not in ("", self.job_id):  # another job has continued it
            SlurmJob(self.run, latest, self.poll_seconds).cancel()

    def _scancel(self, *flags: str) -> str:
        try:
            call("scancel", *flags, self._target)
        except RefusedError as error:
            # Not raised yet: the job may have ended in the meantime.
            return str(error).partition("\n")[0].removesuffix(".")
        return ""

    @property
    def _target(self) -> str:
        step_id = self.record.step_id
        return self.job_id if step_id is None else f"{self.job_id}.{step_id}"

    def _has_gone(self) -> bool:
        if self.record.step_id is None:
            return _has_gone(self._ask(fresh=True))
        words = ("squeue", f"--steps={self._target}", "--noheader", "--format=%i")
        return not call(*words).strip()


def _has_gone(answer: Answer) -> bool:
    return answer.state.is_over or answer.is_forgotten
