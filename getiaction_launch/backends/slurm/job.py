"""A SLURM job that any shell has submitted: its state, and how to cancel it."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.cancelling import cancelling
from getiaction_launch.backends.slurm.beside import execute_beside, find_node
from getiaction_launch.backends.slurm.command import call, cluster_name
from getiaction_launch.backends.slurm.identity import check_identity, check_ids
from getiaction_launch.backends.slurm.state.log import says_out_of_memory
from getiaction_launch.backends.slurm.state.queue import ask, find_step, forget_queue
from getiaction_launch.backends.slurm.state.states import RESTART_SECONDS, Answer
from getiaction_launch.errors import RefusedError, UnreachableError
from getiaction_launch.run.job_end import JobEnd
from getiaction_launch.run.records import (
    AttemptRecord,
    Cancel,
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
        setup: Shell lines that the job runs before srun.
        python: How the job starts Python, as a shell reads it.
    """

    run: Run
    record: JobRecord
    poll_seconds: float
    setup: Sequence[str] = ()
    python: str = "python3"

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
            return JobStatus(end.state, end.reason, end.cause, said=end.said)
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
        elif answer.is_forgotten and not attempts and self._never_started(answer):
            reason = "cancelled before it started"
            answer = Answer(JobState.CANCELLED, reason, Cause.CANCEL, as_of=answer.as_of)
        elif answer.state is JobState.RUNNING and self._has_lost_step():
            lost = (JobState.FAILED, "its step ended without recording why", Cause.NODE_FAILURE)
            return JobStatus(*lost)  # not recorded: the batch script may start another step
        if answer.state is JobState.FAILED:
            answer = self._explained(answer, latest.key)
        if answer.state.is_over:
            # SLURM forgets jobs, and many sites have no accounting that remembers them.
            ending = answer.state, answer.cause, answer.reason
            with contextlib.suppress(OSError):  # only the run's owner can write it
                said = answer.said
                JobEnd(self.job_id, *ending, time.time(), said).write(self.run)
        return answer

    def _never_started(self, answer: Answer) -> bool:
        """Whether a job without attempts that SLURM has forgotten was cancelled in the queue.

        SLURM keeps nothing of an element of an array that is cancelled before it starts. Beware:
        another cluster's SLURM does not know the job either, although it may run.
        """
        log = Path(self.record.output or "")
        if log.is_file():
            return False
        is_old = time.time() - self.record.submitted_at > RESTART_SECONDS
        is_own_log = log.name.startswith(f"{self.job_id}_")
        cluster = self.record.details.get("cluster")
        if not answer.is_known_array and not (
            is_old and is_own_log and cluster is not None and cluster == cluster_name()
        ):
            return False
        # Where clocks differ, the listing can be older than the job.
        return self._ask(fresh=True).is_forgotten

    def _explained(self, answer: Answer, key: str) -> Answer:
        """Add what the log of a failed job says: about its last start, or before any began."""
        log = Path(self.record.output or "")
        if log.name != f"{self.job_id}_0_log.out":
            # Another file may hold what that record's owner must not see: this is written to it.
            return answer
        if not key and (last := last_line(log)) is not None:
            said = f": {last} (see {log})" if last else f" (see {log})"
            return replace(answer, reason=f"{answer.reason}{said}")
        if answer.cause is Cause.CRASH and says_out_of_memory(log, key):  # without accounting
            reason = "a node's memory limit was reached"
            return replace(answer, reason=reason, cause=Cause.OUT_OF_MEMORY)
        return answer

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
        before = self._ask(fresh=True)
        if before.state.is_over:
            return
        check_identity(self.run, self.record)
        with cancelling(self.run):
            self._first_scancel(before)
        started_at = time.monotonic()
        while not self._has_gone():
            if self._ask().state is JobState.PENDING:
                self._scancel()  # it was requeued at the moment of the first scancel
            waited_seconds = time.monotonic() - started_at
            if self.record.step_id is not None and waited_seconds > STEP_SAVE_SECONDS:
                self._scancel()
            if waited_seconds > CANCEL_SECONDS:
                raise self._stays(f"SLURM still has it {CANCEL_SECONDS} s after scancel")
            time.sleep(POLL_SECONDS)
        forget_queue(owner_of(self.run.launch_directory))  # jobs that waited for this one end, too
        latest = JobRecord.read(self.run)
        if latest and latest.job_id not in ("", self.job_id):  # another job has continued it
            SlurmJob(self.run, latest, self.poll_seconds).cancel()

    def execute(self, node_rank: int, host: str, arguments: Sequence[str]) -> int:
        """Run Python on a node of the job, in a step of its own that shares the job's resources.

        Raises:
            UnreachableError: If SLURM does not answer, or the job has no such node.
        """
        del host  # SLURM may call the node otherwise
        check_identity(self.run, self.record)
        job_id, node = find_node(self._target, node_rank)
        execute_beside(job_id, node, self.setup, self.python, arguments)

    def _first_scancel(self, before: Answer) -> None:
        """Run scancel; if its answer was lost, find out whether SLURM has begun to end the job.

        Args:
            before: The state of the job before this call.

        Raises:
            UnreachableError: If SLURM has not begun to end the job.
        """
        # By default scancel sends a step SIGKILL at once.
        flags = () if self.record.step_id is None else ("--signal=TERM",)
        try:
            call("scancel", *flags, self._target)
        except (RefusedError, UnreachableError) as error:
            with contextlib.suppress(RefusedError, UnreachableError):
                if self._has_gone():
                    return
            if self._ask(fresh=True).is_ending and not before.is_ending:
                return
            if isinstance(error, UnreachableError):
                raise
            raise self._stays(str(error).partition("\n")[0].removesuffix(".")) from error

    def _scancel(self) -> None:
        with contextlib.suppress(RefusedError):  # it may have ended in the meantime
            call("scancel", self._target)

    def _stays(self, why: str) -> UnreachableError:
        return UnreachableError(
            f"job {self._target} of run {self.run.name} does not end: {why}.",
            f"Find out why: scontrol show job {self.job_id}",
        )

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
