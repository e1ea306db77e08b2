"""One attempt: one start of a run, which its nodes join, and which ends.

``attempt_N.json`` has one writer, the node of rank 0 or the process that starts the nodes. The
other nodes read from it where rank 0 listens and which checkpoint all of them resume from.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.records import AttemptRecord, Done, Progress, read_attempts
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

EXIT_FAILED = 1
"""Exit code of a node where a worker failed."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended.

    Attributes:
        state: SUCCEEDED, INTERRUPTED, FAILED or CANCELLED.
        cause: What ended the attempt; None after success.
        reason: The same for people.
        goes_on: Whether the run restarts automatically.
    """

    state: JobState
    cause: Cause | None = None
    reason: str = ""
    goes_on: bool = False


@dataclass(frozen=True)
class Attempt:
    """One start of a run.

    Attributes:
        run: The run that was started.
        number: The attempt's number, from 0.
        head: ``address:port`` where the worker of rank 0 listens.
        resume_from: The committed checkpoint that all workers start from; None for a new start.
    """

    run: Run
    number: int
    head: str
    resume_from: str | None

    @classmethod
    def begin(cls, run: Run, key: str, address: str, port: int) -> "Attempt":
        """Open the next attempt; only its one writer calls this.

        Args:
            run: The run to start.
            key: A name that all nodes of this start share with no other start.
            address: This machine's address, as the other nodes reach it.
            port: A port of this machine, reserved by
                :func:`~getiaction_launch.system.ports.reserve_port`.
        """
        number = len(read_attempts(run))
        checkpoint = newest(run)
        resume_from = str(checkpoint.path) if checkpoint else None
        head = f"{address}:{port}"
        if run.local is run:  # on remote storage each node makes its own
            run.make_log_directory(number)
        first_step = checkpoint.step if checkpoint else 0
        AttemptRecord(number, key, head, resume_from, first_step, time.time()).write(run)
        return cls(run, number, head, resume_from)

    @classmethod
    def read(cls, run: Run, number: int) -> "Attempt":
        """Read an attempt that has begun."""
        record = AttemptRecord.read(run, number) or AttemptRecord(number)
        return cls(run, number, record.head, record.resume_from)

    @classmethod
    def join(
        cls,
        run: Run,
        key: str,
        limit_seconds: float,
        is_stopped: Callable[[], object] = lambda: None,
    ) -> "Attempt":
        """Wait until the node of rank 0 has opened the attempt of this ``key``.

        Args:
            run: The run that is being started.
            key: A name that all nodes of this start share with no other start.
            limit_seconds: How long to wait at most.
            is_stopped: Returns something true if this node must stop waiting.

        Raises:
            TimeoutError: If the attempt is not opened in time, or this node must stop.
        """
        deadline = time.monotonic() + limit_seconds
        while time.monotonic() < deadline and not is_stopped():
            for record in read_attempts(run):
                if record.key == key:
                    return cls.read(run, record.number)
            time.sleep(run.poll_seconds)
        raise TimeoutError(
            f"node 0 has not started attempt {key} within {limit_seconds:.0f} s; "
            f"do all nodes see {run.directory}?"
        )

    def end(self, ending: Ending) -> None:
        """Record how the attempt ended; if it succeeded, the run is done."""
        progress = Progress.read(self.run) or Progress()
        if ending.state is JobState.SUCCEEDED:
            # Only this file means success; it repeats what rank 0 last reported.
            Done(**progress.__dict__, finished_at=time.time()).write(self.run)
        record = AttemptRecord.read(self.run, self.number) or AttemptRecord(self.number)
        write_end(self.run, replace(record, last_step=progress.step), ending)


def write_end(run: Run, record: AttemptRecord, ending: Ending) -> None:
    """Write into ``attempt_N.json`` how the attempt ended."""
    replace(
        record,
        state=ending.state,
        cause=ending.cause,
        reason=ending.reason,
        goes_on=ending.goes_on,
        ended_at=time.time(),
    ).write(run)


def recorded_ending(run: Run) -> Ending | None:
    """Return how the run ended, by its own records; None if only its job may know.

    Only ``done.json`` means success.
    """
    if Done.read(run):
        return Ending(JobState.SUCCEEDED)
    records = read_attempts(run)
    if not records or records[-1].ended_at is None or records[-1].goes_on:
        return None
    last = records[-1]
    if last.state is JobState.SUCCEEDED:
        reason = f"attempt {last.number} succeeded, but done.json is missing"
        return Ending(JobState.FAILED, last.cause, reason)
    return Ending(last.state, last.cause, last.reason)


def last_attempt(run: Run) -> int:
    """Return the number of the newest attempt; 0 if none has begun."""
    return max(len(read_attempts(run)) - 1, 0)
