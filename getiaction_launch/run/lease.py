"""The lease of a job: a record that its process renews as long as it lives.

Where a scheduler is asked about a job, it knows whether that lives. But only the own machine knows
about a process, and a Ray cluster that is gone for good never answers. There, a lease that was not
renewed for :data:`LIMIT_SECONDS` says that the process is dead. Runs that wait in a queue of this
machine share the lease of its process.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from getiaction_launch.run.records import JobRecord, Progress, Record, load
from getiaction_launch.run.run import Run
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.paths import is_remote

PERIOD_SECONDS = 10.0
REMOTE_PERIOD_SECONDS = 60.0
"""How often a lease on remote storage is renewed: by two requests for a job, one for a queue."""
LIMIT_SECONDS = 300.0
"""Longest time between two signs of life. The clocks of machines may differ by part of it."""
QUEUE_PREFIX = ".queue-"
"""How the names of the files with leases of queues begin."""


@dataclass(frozen=True)
class Lease(Record):
    """``lease.json``: the job's process still lives. Written by that process, regularly.

    Attributes:
        job_id: The job that the lease is about, as ``job.json`` names it.
        renewed_at: When the process was last known to live, in seconds since the epoch; None once
            it has ended.
        runs: Names of the runs of a queue, ``name/version_N``; None for the lease of a job.
    """

    NAME: ClassVar[str] = "lease"

    job_id: str = ""
    renewed_at: float | None = None
    runs: list[str] | None = None

    def __post_init__(self) -> None:
        if any(why_refused(name) for name in self.runs or ()):
            raise ValueError("runs has something that is not the name of a run")

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended, or must have died."""
        return self.renewed_at is None or time.time() - self.renewed_at > LIMIT_SECONDS


@dataclass(frozen=True)
class SignOfLife:
    """What the lease of a run's job says.

    Attributes:
        age_seconds: How long ago the job's process was last known to live.
        has_ended: Whether the process has said that it ended.
        is_recent: Whether the process lived a moment ago, by the period of its renewals.
    """

    age_seconds: float
    has_ended: bool
    is_recent: bool

    @property
    def is_dead(self) -> bool:
        """Whether the process has ended, or must have died."""
        return self.has_ended or self.age_seconds > LIMIT_SECONDS

    @property
    def words(self) -> str:
        """Say when the process was last known to live: ``25 s ago``."""
        if self.age_seconds < 120:  # noqa: PLR2004 - then minutes are easier to read
            return f"{self.age_seconds:.0f} s ago"
        return f"{self.age_seconds / 60:.0f} min ago"


def last_sign_of_life(run: Run, record: JobRecord, queue: str | None = None) -> SignOfLife | None:
    """Read when a job was last known to live; None if it never had a lease.

    Args:
        run: The run that the job belongs to.
        record: Content of the run's ``job.json``.
        queue: The name of the queue whose lease is that of the run, as long as the run waits in it.
    """
    lease = None if queue is None else _read_lease_of_queue(run, queue)
    lease = lease or Lease.read(run)  # a queue of an earlier version renews that of each run
    if lease is None or lease.job_id != record.job_id:
        return None
    progress = Progress.read(run) if queue is None else None
    reported_at = (progress and progress.updated_at) or 0
    age_seconds = max(0.0, time.time() - max(lease.renewed_at or 0, reported_at))
    has_ended = lease.renewed_at is None
    return SignOfLife(age_seconds, has_ended, not has_ended and age_seconds < 1.5 * period_of(run))


def place_of_queue(run: Run, queue: str) -> Path:
    """Return where the lease of a queue lies: beside the runs, as any of them may be removed.

    Args:
        run: A run of the queue.
        queue: The name of the queue.
    """
    # The name is hashed, since a job.json of a stranger must not lead anywhere else.
    digest = hashlib.sha256(os.fsencode(queue)).hexdigest()[:16]
    return run.directory.parent.parent / f"{QUEUE_PREFIX}{digest}.json"


def _read_lease_of_queue(run: Run, queue: str) -> Lease | None:
    return load(Lease, place_of_queue(run, queue))


def period_of(run: Run) -> float:
    """Return how often a lease of a run, or of its queue, is renewed, in seconds."""
    return REMOTE_PERIOD_SECONDS if is_remote(run.directory) else PERIOD_SECONDS


def is_of(record: JobRecord | None, job: JobRecord) -> bool:
    """Whether ``job.json`` still describes ``job``.

    The time counts, too: in two containers, processes may have the same id and host name.

    Args:
        record: Content of ``job.json`` now; None if it does not exist.
        job: What it contained before.
    """
    if record is None:
        return False
    return (record.job_id, record.submitted_at) == (job.job_id, job.submitted_at)


@contextlib.contextmanager
def holding_lease(run: Run) -> Iterator[None]:
    """Renew the lease of the run's job in a thread, as long as the context lasts."""
    job = JobRecord.read(run)

    def renew(at: float | None) -> None:
        # Read first: another job may have continued the run, and a directory that was removed must
        # not come into being again.
        if job and is_of(JobRecord.read(run), job):
            Lease(job.job_id, at).write(run, durable=False)

    with renewing(renew, period_of(run)):
        yield


@contextlib.contextmanager
def renewing(renew: Callable[[float | None], None], period_seconds: float) -> Iterator[None]:
    """Call ``renew`` with the time, at once and regularly in a thread, and with None at the end.

    Args:
        renew: Function that writes a lease; what it fails to write is passed over.
        period_seconds: How often it is called.
    """
    is_over = threading.Event()

    def renew_at(at: float | None) -> None:
        with contextlib.suppress(OSError, ValueError):  # a full disk must not end the run
            renew(at)

    def keep_renewing() -> None:
        while not is_over.wait(period_seconds):
            renew_at(time.time())

    renew_at(time.time())
    thread = threading.Thread(target=keep_renewing, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        renew_at(None)
