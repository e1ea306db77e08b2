"""A run's job on a Ray cluster: its state, and how to cancel it."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.cancelling import (
    cancelling,
    comes_within,
    record_cancel,
    unrecorded,
)
from getiaction_launch.backends.process import ProcessJob
from getiaction_launch.backends.ray.beside import execute_on
from getiaction_launch.backends.ray.client import check_record, connect, limited, ray_errors
from getiaction_launch.backends.ray.placement import Placement
from getiaction_launch.errors import CheckError, RefusedError, UnreachableError
from getiaction_launch.node.nodes import SAVE_LIMIT_SECONDS
from getiaction_launch.run.attempt import read_end
from getiaction_launch.run.lease import last_sign_of_life
from getiaction_launch.run.records import Cancel, JobRecord, read_attempts
from getiaction_launch.run.restart import CANCELLED
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import is_remote, owner_of

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
        python: How the cluster starts Python, as a shell reads it.
        runtime_env: The environment that Ray makes for the job, without files of its own.
    """

    run: Run
    record: JobRecord
    address: str
    grace_seconds: float
    python: str = "python3"
    runtime_env: Mapping[str, object] = field(default_factory=dict)

    @property
    def resume_command(self) -> str | None:
        """None: ``getiaction-launch resume`` submits another job."""
        return None

    def status(self) -> JobStatus:
        """Return the state of the job, by Ray's answer and the run's own records."""
        try:
            word, message, _ = self._ask()
        except (UnreachableError, CheckError) as error:
            return self._guess(str(error).partition("\n")[0].removesuffix("."))
        said = f"state {word}" + (f", message: {message}" if message else "")
        attempts = read_attempts(self.run)
        has_attempt = bool(attempts) and attempts[-1].ended_at is None
        # A driver of the user's own may still run after the run in it has ended.
        runs = word == "RUNNING" and (has_attempt or not self._is_inside)
        if word != "SUCCEEDED" and not runs and Cancel.read(self.run):
            return JobStatus(CANCELLED.state, CANCELLED.reason, CANCELLED.cause, said=said)
        if word == "RUNNING" and not has_attempt:
            if placement := Placement.read(self.run):
                return JobStatus(JobState.PENDING, placement.reason, is_queued=True, said=said)
            return JobStatus(JobState.PENDING, "its driver is starting", said=said)
        state, cause, reason = _STATES[word]
        words = message if state is not JobState.RUNNING else ""
        return JobStatus(state, f"{reason}{words}", cause, said=said)

    def _guess(self, reason: str) -> JobStatus:
        """Return the state of the job of a cluster that does not answer, by its driver's lease."""
        sign = last_sign_of_life(self.run, self.record)
        if sign is None:
            return JobStatus(JobState.UNKNOWN, reason, is_certain=False)
        if sign.is_dead and Cancel.read(self.run):
            return JobStatus(CANCELLED.state, CANCELLED.reason, CANCELLED.cause)
        lived = "has ended" if sign.has_ended else f"was last known to live {sign.words}"
        state = JobState.FAILED if sign.is_dead else JobState.UNKNOWN
        cause = Cause.NODE_FAILURE if sign.is_dead else None
        return JobStatus(state, f"{reason}, and its driver {lived}", cause, is_certain=False)

    def cancel(self) -> None:
        """End the job, and return once all its processes have stopped.

        Raises:
            UnreachableError: If Ray does not answer, or the job does not end; or if the disk
                refuses to record that it was cancelled. In the last case it has ended all the same.
        """
        status = self.status()
        sign = last_sign_of_life(self.run, self.record)
        if status.state is JobState.UNKNOWN and not sign:
            raise self._unreachable(status.reason)
        if status.state.is_over:
            return
        if status.state is not JobState.UNKNOWN:
            self._check_identity()
        with cancelling(self.run) as failure:  # the driver looks for it before it starts anything
            if failure and (self._is_inside or status.state is JobState.UNKNOWN):
                raise failure  # nothing else can reach the driver
            if status.state is JobState.UNKNOWN:
                # The driver reads that it is cancelled, although its cluster does not answer.
                if not comes_within(self._patience_seconds, self._has_ended, POLL_SECONDS):
                    raise self._unreachable(status.reason)
                return
            if not self._is_inside:
                with ray_errors(self.address):
                    connect(self.address).stop_job(self._job_id)
        if not comes_within(self._patience_seconds, self._is_over, POLL_SECONDS):
            raise UnreachableError(
                f"job {self._job_id} of run {self.run.name} does not end.",
                f"Find out why: ray job logs --address {self.address} {self._job_id}",
            )
        if failure and (failure := record_cancel(self.run)):
            raise unrecorded(self.run, failure)

    def execute(self, node_rank: int, host: str, arguments: Sequence[str]) -> int:
        """Run Python on a node of the job, as another job of Ray; it has no standard input.

        Raises:
            UnreachableError: If Ray does not answer, or does not know the node.
            RefusedError: If Ray rejects the other job.
        """
        self._check_identity()
        if not host:
            raise UnreachableError(
                f"node {node_rank} of run {self.run.name} has not recorded its host name yet.",
                f"See whether it trains: getiaction-launch status {self.run.directory}",
            )
        words = f"exec {self.python} {shlex.join(arguments)}"
        return execute_on(self.address, host, words, self.runtime_env)

    @property
    def _patience_seconds(self) -> float:
        return self.grace_seconds + SAVE_LIMIT_SECONDS + CANCEL_MARGIN_SECONDS

    def _is_over(self) -> bool:
        return self.status().state.is_over

    def _has_ended(self) -> bool:
        return read_end(self.run).ending is not None or self._is_over()

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(
            f"run {self.run.name} cannot be cancelled: {reason}.",
            f"Check whether its cluster has it: ray job list --address {self.address}\n"
            "If that cluster is gone for good: getiaction-launch resume --force "
            f"--address http://HEAD:8265 {self.run.directory}",
        )

    @property
    def _is_inside(self) -> bool:
        return bool(self.record.details.get("is_inside"))

    @property
    def _job_id(self) -> str:
        return self.record.job_id

    def _check_identity(self) -> None:
        """Check that the job is this run's, and not any job that a record of a stranger names.

        Raises:
            UnreachableError: If Ray says that the job is another run's.
        """
        *_, directory = self._ask()
        here = str(self.run.directory)
        if self._is_inside or directory in (None, here) or _is_same(directory, here):
            return
        raise UnreachableError(
            f"job {self._job_id} is not that of run {self.run.name}: Ray says that it is that of "
            f"{directory}.",
            f"If it shall end: ray job stop --address {self.address} {shlex.quote(self._job_id)}",
        )

    def _ask(self) -> tuple[str, str, str | None]:
        """Return the job's state in Ray's own word, Ray's message, and the run's directory.

        The directory is None if the job does not say it.

        Raises:
            UnreachableError: If the cluster does not answer, or must not be asked.
        """
        is_owned = not is_remote(self.run.directory)
        owner = owner_of(self.run.launch_directory / "job.json") if is_owned else None
        check_record(self.address, self._job_id, owner)
        try:
            with ray_errors(self.address):
                info = limited(
                    lambda: connect(self.address).get_job_info(self._job_id), self.address
                )
        except RefusedError as error:
            if "404" not in str(error) and "does not exist" not in str(error):
                raise UnreachableError(str(error)) from error
            # A cluster that was restarted does not know its earlier jobs.
            unknown = f"the cluster at {self.address} does not know it; was it restarted?"
            return "FAILED", unknown, None
        lines = (info.message or "").strip().splitlines()
        directory = (info.metadata or {}).get("directory")
        return str(info.status.value), lines[-1] if lines else "", directory


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


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
