"""A run's job on a Ray cluster: its state, and how to cancel it."""

import time
from dataclasses import dataclass, replace

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.process import ProcessJob
from getiaction_launch.backends.ray.client import connect, ray_errors
from getiaction_launch.backends.ray.placement import Placement
from getiaction_launch.errors import RefusedError, UnreachableError
from getiaction_launch.node.node import SAVE_LIMIT_SECONDS
from getiaction_launch.run.records import Cancel, JobRecord, read_attempts
from getiaction_launch.run.restart import CANCELLED, cancelling
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
    """A job of Ray's Jobs API, or the one in which the user called the launcher.

    Args:
        run: The run that the job belongs to.
        record: Content of the run's ``job.json``.
        address: Address of the cluster that the job was submitted to.
        grace_seconds: How long the workers may take between SIGTERM and SIGKILL.
    """

    run: Run
    record: JobRecord
    address: str
    grace_seconds: float

    @property
    def resume_command(self) -> str | None:
        """None: ``getiaction-launch resume`` submits another job."""
        return None

    def status(self) -> JobStatus:
        """Return the state of the job, by Ray's answer and the run's own records."""
        try:
            word, message = self._ask()
        except UnreachableError as error:
            return JobStatus(JobState.UNKNOWN, str(error).partition("\n")[0])
        attempts = read_attempts(self.run)
        has_attempt = bool(attempts) and attempts[-1].ended_at is None
        # A driver of the user's own may still run after the run in it has ended.
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
        """End the job, and return once all its processes have stopped.

        Raises:
            UnreachableError: If Ray does not answer, or the job does not end.
        """
        status = self.status()
        if status.state is JobState.UNKNOWN:
            raise UnreachableError(
                f"run {self.run.name} cannot be cancelled: {status.reason}.",
                f"Check whether its cluster has it: ray job list --address {self.address}",
            )
        if status.state.is_over:
            return
        with cancelling(self.run):  # the driver looks for it before it starts anything
            if not self._is_inside:
                with ray_errors(self.address):
                    connect(self.address).stop_job(self._job_id)
        patience_seconds = self.grace_seconds + SAVE_LIMIT_SECONDS + CANCEL_MARGIN_SECONDS
        deadline = time.monotonic() + patience_seconds
        while not self.status().state.is_over:
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"job {self._job_id} of run {self.run.name} does not end.",
                    f"Find out why: ray job logs --address {self.address} {self._job_id}",
                )
            time.sleep(POLL_SECONDS)

    @property
    def _is_inside(self) -> bool:
        return bool(self.record.details.get("is_inside"))

    @property
    def _job_id(self) -> str:
        return self.record.job_id

    def _ask(self) -> tuple[str, str]:
        """Return the job's state in Ray's own word, and Ray's message.

        Raises:
            UnreachableError: If the cluster does not answer.
        """
        client = connect(self.address)
        try:
            with ray_errors(self.address):
                info = client.get_job_info(self._job_id)
        except RefusedError as error:
            if "404" not in str(error) and "does not exist" not in str(error):
                raise UnreachableError(str(error)) from error
            # A cluster that was restarted does not know its earlier jobs.
            return "FAILED", f"the cluster at {self.address} does not know it; was it restarted?"
        lines = (info.message or "").strip().splitlines()
        return str(info.status.value), lines[-1] if lines else ""


@dataclass(frozen=True)
class PrivateRayJob(ProcessJob):
    """A process of this machine whose driver starts a Ray cluster of its own."""

    def status(self) -> JobStatus:
        """Ask the process table, and the driver's record of what it waits for."""
        status = super().status()
        placement = Placement.read(self.run) if status.state is JobState.PENDING else None
        if placement is None:
            return status
        return replace(status, reason=placement.reason, is_queued=True)
