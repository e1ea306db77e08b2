"""A run's job as a process of this machine, which outlives the shell that started it.

The process writes into ``job.json`` how to find it; its nodes and workers are killed when it dies
(:mod:`getiaction_launch.system.child`). ``status`` and ``cancel`` work from any shell of the
machine.
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
"""How much longer a run on remote storage may take to end, to upload its last checkpoint."""


def start_process(run: Run, module: str, words: Sequence[str]) -> None:
    """Start ``python -m module RUN WORDS...`` in a new session, and wait for its ``job.json``.

    Args:
        run: The run, whose directory is the first argument of the process.
        module: Import path of the module to run.
        words: Further arguments of the process.

    Raises:
        CheckError: If the process ends earlier; the message quotes the last line of its output.
    """
    log_path = run.make_log_directory(0) / "job.log"
    # If a worker of another run calls this, the new process must not count as part of that run.
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
        process.kill()  # without job.json, status and cancel could not find it
        raise
    if record == before:
        raise CheckError(f"the job of run {run.name} could not start: {last_line(log_path) or ''}")


def write_job(run: Run, backend: BackendRecord) -> None:
    """Write a ``job.json`` that says how to find this process.

    Args:
        run: The run that this process is the job of.
        backend: The backend that started this process.
    """
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
        host: Host name of the machine that the process runs on.
        pid: Process id on that machine.
        started_after_boot_seconds: When the process started, in seconds since the machine booted.
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
        """Return the state of the job, by this machine's process table and the run's records."""
        process = self._process
        if process.host != socket.gethostname():
            return JobStatus(
                JobState.UNKNOWN,
                f"it was started on {process.host}, and only that machine knows its state",
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
            UnreachableError: If the job runs on another machine, belongs to another user or does
                not end.
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
                f"run {self.run.name} belongs to another user.", "Ask that user to cancel it."
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
            f"the job process of run {self.run.name} did not end, not even after SIGKILL.",
            f"The kernel holds it, often because a disk is gone: ps -o stat,wchan -p {pid}",
        )


def _start_time(pid: int) -> float | None:
    """Return when a process started, in seconds since the machine booted; None if it has ended.

    Setting the clock does not change this, so together with the process id it identifies a process
    even if the id is used again later.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.NoSuchProcess:
        return None
