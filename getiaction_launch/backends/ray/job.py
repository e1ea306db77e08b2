"""A run's job on a Ray cluster: where it stands, and how it is ended."""

import time
from dataclasses import dataclass

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.ray.client import connect, ray_errors
from getiaction_launch.backends.ray.placement import Placement
from getiaction_launch.errors import RefusedError, UnreachableError
from getiaction_launch.node.node import SAVE_LIMIT_SECONDS
from getiaction_launch.run.records import Cancel, JobRecord, read_attempts
from getiaction_launch.run.restart import CANCELLED
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

POLL_SECONDS = 0.5
CANCEL_MARGIN_SECONDS = 30
_STATES = {
    "PENDING": (JobState.PENDING, None, ""),
    "RUNNING": (JobState.RUNNING, None, ""),
    "STOPPED": (JobState.CANCELLED, Cause.CANCEL, "its job was stopped: "),
    "SUCCEEDED": (JobState.SUCCEEDED, None, ""),
    "FAILED": (JobState.FAILED, Cause.NODE_FAILURE, "its job failed: "),
}


@dataclass(frozen=True)
class RayJob:
    """A job of Ray's Jobs API, or the one inside of which the user called the launcher."""

    run: Run
    record: JobRecord
    address: str
    grace_seconds: float

    @property
    def resume_command(self) -> str | None:
        """None: ``getiaction-launch resume`` submits another job."""
        return None

    def status(self) -> JobStatus:
        """What Ray says, with what the run's own records say of it."""
        try:
            word, message = self._ask()
        except UnreachableError as error:
            return JobStatus(JobState.UNKNOWN, str(error).partition("\n")[0])
        attempts = read_attempts(self.run)
        has_attempt = bool(attempts) and attempts[-1].ended_at is None
        # A driver of the user's own goes on when the run in it has ended.
        runs = word == "RUNNING" and (has_attempt or not self._is_inside)
        if word != "SUCCEEDED" and not runs and Cancel.read(self.run):
            return JobStatus(CANCELLED.state, CANCELLED.reason, CANCELLED.cause)
        if word == "RUNNING" and not has_attempt:
            if placement := Placement.read(self.run):
                return JobStatus(JobState.PENDING, placement.reason, is_queued=True)
            return JobStatus(JobState.PENDING, "its driver is starting")
        state, cause, reason = _STATES[word]
        return JobStatus(
            state, f"{reason}{message if state is not JobState.RUNNING else ''}", cause
        )

    def cancel(self) -> None:
        """End the job; return when none of its processes is left.

        Raises:
            UnreachableError: If Ray does not answer, or the job does not end.
        """
        status = self.status()
        if status.state is JobState.UNKNOWN:
            raise UnreachableError(
                f"run {self.run.name} cannot be cancelled: {status.reason}.",
                f"Is it still there? ray job list --address {self.address}",
            )
        if status.state.is_over:
            return
        # First: the driver looks for it, and nothing begins any more once it is there.
        Cancel(time.time()).write(self.run)
        if not self._is_inside:
            with ray_errors(self.address):
                connect(self.address).stop_job(self._job_id)
        patience_seconds = self.grace_seconds + SAVE_LIMIT_SECONDS + CANCEL_MARGIN_SECONDS
        deadline = time.monotonic() + patience_seconds
        while not self.status().state.is_over:
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"job {self._job_id} of run {self.run.name} does not end.",
                    f"See what holds it: ray job logs --address {self.address} {self._job_id}",
                )
            time.sleep(POLL_SECONDS)

    @property
    def _is_inside(self) -> bool:
        return bool(self.record.details.get("is_inside"))

    @property
    def _job_id(self) -> str:
        return self.record.job_id

    def _ask(self) -> tuple[str, str]:
        """Ray's word for the job's state, and its message.

        Raises:
            UnreachableError: If it does not answer.
        """
        client = connect(self.address)
        try:
            with ray_errors(self.address):
                info = client.get_job_info(self._job_id)
        except RefusedError as error:
            if "404" not in str(error) and "does not exist" not in str(error):
                raise UnreachableError(str(error)) from error
            # Jobs are forgotten with the cluster that ran them.
            return "FAILED", f"the cluster at {self.address} does not know it; was it restarted?"
        lines = (info.message or "").strip().splitlines()
        return str(info.status.value), lines[-1] if lines else ""
