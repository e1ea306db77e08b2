"""A run's job as a process of this machine, which outlives the shell that started it.

The process writes into ``job.json`` how to find it; its nodes and workers are killed when it dies
(:mod:`getiaction_launch.system.child`). ``status`` and ``cancel`` work from any shell of the
machine.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.cancelling import (
    cancel_now,
    comes_within,
    record_cancel,
    unrecorded,
)
from getiaction_launch.backends.starting import QUEUE, ProcessDetails
from getiaction_launch.errors import UnreachableError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.attempt import read_end
from getiaction_launch.run.lease import REMOTE_PERIOD_SECONDS, is_of, last_sign_of_life
from getiaction_launch.run.records import (
    AttemptRecord,
    Cancel,
    JobRecord,
    read_attempts,
)
from getiaction_launch.run.restart import CANCELLED
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import is_remote, last_line, open_path, why
from getiaction_launch.system.child import become
from getiaction_launch.system.machine import Machine, Place
from getiaction_launch.system.orphans import kill_processes_of
from getiaction_launch.system.processes import (
    NotOursError,
    command_line,
    descendants,
    is_process,
    send_signal,
)

PACKAGE = "getiaction_launch."
CANCEL_MARGIN_SECONDS = 15
UPLOAD_SECONDS = 300
"""How much longer a run on remote storage may take to end, to upload its last checkpoint."""


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

    @property
    def _queue(self) -> str | None:
        """The directory by which the queue is known that the run waits in; None once it started."""
        found = self.record.details.get(QUEUE)
        return found if isinstance(found, str) else None

    def _fits(self, words: Sequence[str]) -> bool:
        """Whether a command line is that of a job process of this run, or of its queue."""
        return any(
            flag == "-m"
            and module.startswith(PACKAGE)
            and (place == self._queue if self._queue else self._is_named(place))
            for flag, module, place in zip(words, words[1:], words[2:], strict=False)
        )

    def _is_named(self, place: str) -> bool:
        directory = self.run.directory
        if is_remote(directory) or "://" in place:
            return str(open_path(place)) == str(directory)
        try:
            return place == str(directory) or Path(place).samefile(directory)  # through a link
        except OSError:
            return False

    def status(self) -> JobStatus:
        """Return the state of the job, by this machine's process table and the run's records.

        The process table of another machine cannot be read. From there, the state follows from the
        lease that the job process renews.
        """
        process = self._process
        if self._queue and Cancel.read(self.run):
            return self._ended("")  # its queue passes it over
        place = process.machine.seen_from(Machine.here())
        if place is Place.HERE:
            with contextlib.suppress(NotOursError):
                return self._status_here()
        sign = last_sign_of_life(self.run, self.record, self._queue)
        # A copy of the machine's image is a machine of the same id, on which the process may live.
        if place is Place.REBOOTED and not (sign and sign.is_recent):
            return self._ended("its job process was killed when the machine restarted")
        if sign is None:
            return JobStatus(
                JobState.UNKNOWN,
                f"it was started on {process.host}, and only that machine knows its state",
                is_certain=False,
            )
        if sign.has_ended:
            return self._ended(f"its job process on {process.host} ended without recording why")
        words = f"its job process on {process.host} was last known to live {sign.words}"
        return (
            self._ended(words) if sign.is_dead else replace(self._living(words), is_certain=False)
        )

    def _status_here(self) -> JobStatus:
        process = self._process
        if is_process(process.pid, process.started_after_boot_seconds, self._fits):
            return self._living()
        whose = "the process of its sweep" if self._queue else "its job process"
        return self._ended(f"{whose} was killed or the machine restarted")

    def _living(self, reason: str = "") -> JobStatus:
        has_begun = False
        with contextlib.suppress(OSError, ValueError):  # a disk that fails must not hide the job
            has_begun = AttemptRecord.read(self.run, 0) is not None
        return JobStatus(JobState.RUNNING if has_begun else JobState.PENDING, reason)

    def _ended(self, reason: str) -> JobStatus:
        if Cancel.read(self.run):
            return JobStatus(CANCELLED.state, CANCELLED.reason, CANCELLED.cause)
        words = last_line(self.run.local.log_directory(0) / "job.log")
        reason = f"{reason}: {words}" if words else reason
        return JobStatus(JobState.FAILED, reason, Cause.NODE_FAILURE)

    def cancel(self) -> None:
        """End the job process and, with it, every process that works for the run.

        Raises:
            UnreachableError: If the job runs on another machine that does not obey, belongs to
                another user or does not end; or if the disk refuses to record that it was
                cancelled. In the last case it has ended all the same.
        """
        status = self.status()
        if self._queue and not status.state.is_over:
            self._leave_queue()
            return
        if status.state is JobState.UNKNOWN:
            raise self._unreachable(status.reason)
        if not status.state.is_over and not status.is_certain:
            cancel_now().write(self.run)
            if not self._ends_within(2 * REMOTE_PERIOD_SECONDS + self._patience_seconds):
                raise self._unreachable(self.status().reason)
            return
        known = [] if status.state.is_over else descendants(self._process.pid)
        failure = None if status.state.is_over else self._stop()
        tokens = []
        with contextlib.suppress(OSError, ValueError):
            tokens = [attempt.token for attempt in read_attempts(self.run)]
        kill_processes_of(str(self.run.local.directory), tokens, known)
        if failure:
            raise unrecorded(self.run, failure) from failure

    def _leave_queue(self) -> None:
        """Keep the run from being started, or end the job that was started in the meantime."""
        if failure := record_cancel(self.run):
            raise UnreachableError(
                f"run {self.run.name} waits for its turn, and that it is cancelled cannot be "
                f"recorded: {why(failure)}.",
                f"Try again when its disk can be written to: {self.run.directory}",
            )
        # A job writes job.json, and only then looks whether it was cancelled. So if it is not there
        # yet, it will begin nothing.
        latest = JobRecord.read(self.run)
        if latest and not is_of(latest, self.record):
            replace(self, record=latest).cancel()

    def execute(self, node_rank: int, host: str, arguments: Sequence[str]) -> int:
        """Run the job's Python on a node: all nodes are parts of the machine of the job process.

        Raises:
            UnreachableError: If that is another machine.
        """
        del node_rank, host
        process = self._process
        if process.machine.seen_from(Machine.here()) is not Place.HERE:
            raise UnreachableError(
                f"run {self.run.name} runs on {process.host}, and not on this machine.",
                f"ssh {process.host} getiaction-launch exec {self.run.directory} -- COMMAND",
            )
        become([self._python, *arguments], os.environ)

    @property
    def _python(self) -> str:
        """The interpreter of the job process; this one's if it cannot be read."""
        process, words = self._process, None
        with contextlib.suppress(NotOursError):
            words = command_line(process.pid, process.started_after_boot_seconds, self._fits)
        # A relative path counts from the directory in which that process was started.
        is_found = words and Path(words[0]).is_absolute() and os.access(words[0], os.X_OK)
        return words[0] if words and is_found else sys.executable

    def _unreachable(self, reason: str) -> UnreachableError:
        return UnreachableError(
            f"run {self.run.name} cannot be cancelled from here: {reason}.",
            f"ssh {self._process.host} getiaction-launch cancel {self.run.directory}\n"
            "If that machine is gone for good: "
            f"getiaction-launch resume --force {self.run.directory}",
        )

    def _stop(self) -> OSError | None:
        """End the job process; returns why that could not be recorded.

        The signals are sent whatever the disk says: a full one may be the reason for the cancel.
        """
        try:
            self._signal(0)
        except NotOursError as error:
            raise UnreachableError(
                f"run {self.run.name} belongs to another user.", "Ask that user to cancel it."
            ) from error
        failure = record_cancel(self.run)
        for signum, patience_seconds in (
            (signal.SIGTERM, self._patience_seconds),
            (signal.SIGKILL, CANCEL_MARGIN_SECONDS),
        ):
            self._signal(signum)
            if self._ends_within(patience_seconds):
                return failure and record_cancel(self.run)  # the end may have freed some space
        raise UnreachableError(
            f"the job process of run {self.run.name} did not end, not even after SIGKILL.",
            "The kernel holds it, often because a disk is gone: "
            f"ps -o stat,wchan -p {self._process.pid}",
        )

    def _signal(self, signum: int) -> None:
        process = self._process
        send_signal(process.pid, signum, process.started_after_boot_seconds, self._fits)

    @property
    def _patience_seconds(self) -> float:
        upload_seconds = 0 if self.run.local is self.run else UPLOAD_SECONDS
        return self.grace_seconds + CANCEL_MARGIN_SECONDS + upload_seconds

    def _ends_within(self, limit_seconds: float) -> bool:
        return comes_within(limit_seconds, self._has_ended, self.run.poll_seconds)

    def _has_ended(self) -> bool:
        status = self.status()
        is_recorded = not status.is_certain and read_end(self.run).ending is not None
        return status.state.is_over or is_recorded
