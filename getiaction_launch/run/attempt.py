"""One attempt: one start of a run, which its nodes join, and which ends.

``attempt_N.json`` has one writer, the node of rank 0 or the process that starts the nodes. The
other nodes read from it where rank 0 listens and which checkpoint all of them resume from.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from getiaction_launch.errors import CheckError, RecordError, StorageError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.site import Site
from getiaction_launch.plan.text import shorten
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.finished import remove_needless
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.reading.newest import count_attempts, newest_record
from getiaction_launch.run.reading.summary import write_summary
from getiaction_launch.run.records import (
    AttemptRecord,
    Done,
    JobRecord,
    Progress,
    load,
    plain,
    read_attempts,
)
from getiaction_launch.run.run import Run, check_staging
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import write_json

END_HERE = ".end.json"
"""File of a staging directory with the end of an attempt, if storage could not be reached then."""
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
        token: A random word by which processes of this start are known.
        other_addresses: IP addresses of the same machine, for nodes that cannot reach ``head``.
        network_variables: Variables by which this node's workers use the network that joins all
            nodes, unless the user has set them.
    """

    run: Run
    number: int
    head: str
    resume_from: str | None
    token: str = ""
    other_addresses: Sequence[str] = ()
    network_variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def begin(
        cls, run: Run, key: str, address: str, port: int, other_addresses: Sequence[str] = ()
    ) -> "Attempt":
        """Open the next attempt; only its one writer calls this.

        Args:
            run: The run to start.
            key: A name that all nodes of this start share with no other start.
            address: This machine's address, as the other nodes reach it.
            port: A port of this machine, reserved by
                :func:`~getiaction_launch.system.ports.reserve_port`.
            other_addresses: IP addresses of this machine, for nodes that cannot reach ``address``.
        """
        import secrets  # slow to import

        number = count_attempts(run)
        checkpoint = newest(run)
        resume_from = str(checkpoint.path) if checkpoint else None
        head = f"{address}:{port}"
        if run.local is run:  # on remote storage each node makes its own
            run.make_log_directory(number)
        first_step = checkpoint.step if checkpoint else 0
        token, now = secrets.token_hex(8), time.time()
        AttemptRecord(
            *(number, key, head, resume_from, first_step, now),
            token=token,
            other_addresses=list(other_addresses),
            site=_site_of(run),
        ).write(run)
        write_summary(run, number)
        return cls(run, number, head, resume_from, token, other_addresses)

    @property
    def _plan(self) -> Plan:
        with contextlib.suppress(StorageError):
            return Plan.of(self.run)
        return Plan.of(self.run.local)

    @classmethod
    def read(cls, run: Run, number: int) -> "Attempt":
        """Read an attempt that has begun.

        Raises:
            CheckError: If this node does not see it; without it, training would start anew.
        """
        record = AttemptRecord.read(run, number)
        if record is None:
            raise CheckError(
                f"{socket.gethostname()} does not see attempt {number} of run {run.name}.",
                f"Check that every node sees {run.directory}.",
            )
        return cls._of(run, record)

    @classmethod
    def _of(cls, run: Run, record: AttemptRecord) -> "Attempt":
        return cls(
            *(run, record.number, record.head, record.resume_from, record.token),
            record.other_addresses,
        )

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
        number = max(count_attempts(run) - 1, 0)
        while time.monotonic() < deadline and not is_stopped():
            while record := AttemptRecord.read(run, number):
                if record.key == key:
                    return cls._of(run, record)
                number += 1
            time.sleep(run.poll_seconds)
        raise TimeoutError(
            f"node 0 has not started attempt {key} within {limit_seconds:.0f} s; "
            f"do all nodes see {run.directory}?"
        )

    def end_here(self, ending: Ending) -> None:
        """Record how the attempt ended where only this machine sees it, as storage fails."""
        record = _ended(AttemptRecord(self.number, head=self.head), ending)
        write_json(_end_here(self.run), plain(record))

    def write_node_error(
        self, node_rank: int, name: str, message: str, host: str | None = None
    ) -> None:
        """Record why a node cannot train, as the error of its first worker.

        Args:
            node_rank: Rank of the node, from 0.
            name: Class name of the error.
            message: What went wrong, in a sentence for people.
            host: Host name of the node; this machine's by default.
        """
        rank = node_rank * self._plan.topology.workers_per_node
        error = WorkerError(rank, node_rank, host or socket.gethostname(), name, message)
        for place in dict.fromkeys((self.run.local, self.run)):
            with contextlib.suppress(StorageError):  # it may be what has failed
                place.write_error(self.number, error)

    def end(self, ending: Ending) -> None:
        """Record how the attempt ended; if it succeeded, the run is done."""
        try:
            progress = Progress.read(self.run) or Progress()
        except RecordError:  # how the run ended must be recorded, whatever else is damaged
            progress = Progress()
        if ending.state is JobState.SUCCEEDED:
            # Only this file means success; it repeats what rank 0 last reported.
            Done(**progress.__dict__, finished_at=time.time()).write(self.run)
            with contextlib.suppress(OSError, StorageError):  # they only take space
                remove_needless(self.run)
        record = AttemptRecord.read(self.run, self.number) or AttemptRecord(self.number)
        first_step = progress.first_step or 0 if progress.is_own else record.first_step
        record = replace(record, first_step=first_step, last_step=progress.step)
        write_end(self.run, record, ending)


def _site_of(run: Run) -> Site | None:
    """Return where the run is now, by its records; None if they do not say."""
    with contextlib.suppress(RecordError):
        plan, job = Plan.of(run), JobRecord.read(run) or JobRecord()
        return Site(job.backend.class_path, job.job_id, **asdict(plan.topology))
    return None


def write_end(run: Run, record: AttemptRecord, ending: Ending) -> None:
    """Write into ``attempt_N.json`` how the attempt ended."""
    _ended(record, ending).write(run)
    write_summary(run, record.number)


def _ended(record: AttemptRecord, ending: Ending) -> AttemptRecord:
    return replace(
        record,
        state=ending.state,
        cause=ending.cause,
        reason=shorten(ending.reason),
        goes_on=ending.goes_on,
        ended_at=time.time(),
    )


def _end_here(run: Run) -> Path:
    return run.local.directory / END_HERE


def newest_attempt(run: Run) -> AttemptRecord | None:
    """Read the newest attempt, with its end if only this machine knows that, as storage failed."""
    record = newest_record(run)
    return record and _with_end_here(run, record)


def attempts_of(run: Run) -> list[AttemptRecord]:
    """Read the records of all attempts, the first one first.

    If storage could not be reached at the end of the last one, this machine may know that end.
    """
    records = read_attempts(run)
    return [*records[:-1], *(_with_end_here(run, record) for record in records[-1:])]


def _with_end_here(run: Run, record: AttemptRecord) -> AttemptRecord:
    if run.local is run or record.ended_at is not None:
        return record
    with contextlib.suppress(CheckError, RecordError):  # of another user, or damaged
        check_staging(run)
        here = load(AttemptRecord, _end_here(run))
        if here and (here.number, here.head) == (record.number, record.head):
            return replace(
                record,
                state=here.state,
                cause=here.cause,
                reason=here.reason,
                goes_on=here.goes_on,
                ended_at=here.ended_at,
            )
    return record


def is_only_here(run: Run) -> bool:
    """Whether only this machine knows how the last attempt ended."""
    stored = newest_record(run)
    return stored is not None and _with_end_here(run, stored) != stored


def record_end(run: Run, record: AttemptRecord) -> None:
    """Record on storage the end of an attempt that only this machine knows, if it is such a one."""
    if run.local is not run and _end_here(run).exists() and is_only_here(run):
        record.write(run)
        write_summary(run, record.number)


@dataclass(frozen=True)
class RecordedEnd:
    """What a run's own records say about its end.

    Attributes:
        ending: How the run ended; None if only its job may know.
        attempts: Every attempt so far, the first one first.
        done: The last progress of a run that has finished; None for any other.
    """

    ending: Ending | None
    attempts: list[AttemptRecord]
    done: Done | None = None


def read_end(run: Run) -> RecordedEnd:
    """Read how a run ended, by its own records. Only ``done.json`` means success.

    Raises:
        RecordError: If one of the attempts' records is damaged.
    """
    # Beware: the attempts first. A run that ends between the two reads has done.json already.
    attempts = attempts_of(run)
    if done := _read_done(run):
        return RecordedEnd(Ending(JobState.SUCCEEDED), attempts, done)
    return RecordedEnd(_last_ending(attempts), attempts)


def _read_done(run: Run) -> Done | None:
    try:
        return Done.read(run)
    except RecordError:
        if run.read(Done.NAME) is None:  # raises if it is not even JSON
            raise
        return Done()  # that it is there is enough


def _last_ending(attempts: Sequence[AttemptRecord]) -> Ending | None:
    if not attempts or attempts[-1].ended_at is None or attempts[-1].goes_on:
        return None
    last = attempts[-1]
    if last.state is JobState.SUCCEEDED:
        reason = f"attempt {last.number} succeeded, but done.json is missing"
        return Ending(JobState.FAILED, last.cause, reason)
    return Ending(last.state, last.cause, last.reason)


def last_attempt(run: Run) -> int:
    """Return the number of the newest attempt; 0 if none has begun."""
    return max(len(read_attempts(run)) - 1, 0)
