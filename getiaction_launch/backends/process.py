"""A run's job as a process of this machine that outlives the shell which started it.

The process says in ``job.json`` how to find it, and nodes and workers are bound to die with it
(:mod:`getiaction_launch.system.child`). Status and cancel work from any other shell of the machine.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import psutil

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.errors import CheckError, UnreachableError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.records import AttemptRecord, BackendRecord, Cancel, JobRecord
from getiaction_launch.run.restart import CANCELLED
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import last_line
from getiaction_launch.system.orphans import RUN_VARIABLE, kill_processes_of

CANCEL_MARGIN_SECONDS = 15
UPLOAD_SECONDS = 300
"""How much longer a run on remote storage may take to end, for its last checkpoint."""


def start_process(run: Run, module: str, words: Sequence[str]) -> None:
    """Start ``python -m module RUN WORDS...`` in a session of its own.

    Returns when it has written its ``job.json``.

    Raises:
        CheckError: If it ends before that, with its last words.
    """
    log_path = run.make_log_directory(0) / "job.log"
    # A run that a worker of another run submits is not that run's.
    inherited = {k: v for k, v in os.environ.items() if k != RUN_VARIABLE}
    before = JobRecord.read(run)
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(run.directory), *words],
            env=inherited,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while (record := JobRecord.read(run)) == before and process.poll() is None:
            time.sleep(run.poll_seconds)
    except KeyboardInterrupt:
        process.kill()  # nobody could find it any more
        raise
    if record == before:
        words_said = last_line(log_path) or ""
        raise CheckError(f"the job of run {run.name} could not start: {words_said}")


def write_job(run: Run, backend: BackendRecord) -> None:
    """Write ``job.json`` for this process: the backend that started it, and how to find it."""
    host = socket.gethostname()
    process = ProcessDetails(host, os.getpid(), _start_time(os.getpid()))
    JobRecord(
        backend,
        job_id=f"{os.getpid()}@{host}",
        submitted_at=time.time(),
        details={"process": asdict(process)},
    ).write(run)


@dataclass(frozen=True)
class ProcessDetails:
    """How to find a job process again, in the details of ``job.json``.

    Attributes:
        host: Name of the machine that the process runs on.
        pid: Its process id there.
        started_after_boot_seconds: When it started, in seconds after the machine did.
    """

    host: str
    pid: int
    started_after_boot_seconds: float | None


@dataclass(frozen=True)
class ProcessJob:
    """A job process on this machine."""

    run: Run
    record: JobRecord
    grace_seconds: float

    @property
    def resume_command(self) -> str | None:
        """None: ``getiaction-launch resume`` starts another job process."""
        return None

    @property
    def _process(self) -> ProcessDetails:
        source = f"{self.run.launch_directory / 'job.json'}: process"
        return read_dataclass(ProcessDetails, self.record.details.get("process"), source)

    def status(self) -> JobStatus:
        """Ask the process table."""
        process = self._process
        if process.host != socket.gethostname():
            return JobStatus(
                JobState.UNKNOWN, f"it was started on {process.host}; ask on that machine"
            )
        if _start_time(process.pid) == process.started_after_boot_seconds:
            has_begun = AttemptRecord.read(self.run, 0) is not None
            return JobStatus(JobState.RUNNING if has_begun else JobState.PENDING)
        if Cancel.read(self.run):
            return JobStatus(CANCELLED.state, CANCELLED.reason, CANCELLED.cause)
        words = last_line(self.run.local.log_directory(0) / "job.log")
        reason = "its job process was killed or the machine restarted"
        reason = f"{reason}: {words}" if words else reason
        return JobStatus(JobState.FAILED, reason, Cause.NODE_FAILURE)

    def cancel(self) -> None:
        """End the job process and, with it, every process that works for the run.

        Raises:
            UnreachableError: If the job is another machine's or another user's, or does not end.
        """
        status = self.status()
        if status.state is JobState.UNKNOWN:
            raise UnreachableError(
                f"run {self.run.name} cannot be cancelled from here: {status.reason}.",
                f"ssh {self._process.host} getiaction-launch cancel {self.run.directory}",
            )
        if not status.state.is_over:
            self._stop()
        kill_processes_of(str(self.run.local.directory))

    def _stop(self) -> None:
        pid = self._process.pid
        try:
            os.kill(pid, 0)
            Cancel(time.time()).write(self.run)
        except PermissionError as error:
            raise UnreachableError(
                f"run {self.run.name} belongs to another user.", "Only they can cancel it."
            ) from error
        except ProcessLookupError:
            return
        upload_seconds = 0 if self.run.local is self.run else UPLOAD_SECONDS
        for signum, patience_seconds in (
            (signal.SIGTERM, self.grace_seconds + CANCEL_MARGIN_SECONDS + upload_seconds),
            (signal.SIGKILL, CANCEL_MARGIN_SECONDS),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
            deadline = time.monotonic() + patience_seconds
            while time.monotonic() < deadline:
                if self.status().state.is_over:
                    return
                time.sleep(self.run.poll_seconds)
        raise UnreachableError(
            f"the job process {pid} of run {self.run.name} does not end, not even by SIGKILL.",
            "It waits for the kernel, often for a disk that is gone: see `ps -o stat,wchan`.",
        )


def _start_time(pid: int) -> float | None:
    """When a process started, in seconds after the machine did; None if it is gone.

    Unlike the time of day, this does not move when the clock is set, so together with the pid it
    tells a process from a later one.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.NoSuchProcess:
        return None
