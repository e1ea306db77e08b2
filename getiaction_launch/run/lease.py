"""The lease of a job: a record that its process renews as long as it lives.

Where a scheduler is asked about a job, it knows whether that lives. But only the own machine knows
about a process, and a Ray cluster that is gone for good never answers. There, a lease that was not
renewed for :data:`LIMIT_SECONDS` says that the process is dead.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from getiaction_launch.run.records import JobRecord, Progress, Record
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import is_remote

PERIOD_SECONDS = 10.0
REMOTE_PERIOD_SECONDS = 60.0
"""How often a lease on remote storage is renewed; each time, two requests are paid for."""
LIMIT_SECONDS = 300.0
"""Longest time between two signs of life. The clocks of machines may differ by part of it."""


@dataclass(frozen=True)
class Lease(Record):
    """``lease.json``: the job's process still lives. Written by the job process, regularly.

    Attributes:
        job_id: The job that the lease is about, as ``job.json`` names it.
        renewed_at: When the process was last known to live, in seconds since the epoch; None once
            it has ended.
    """

    NAME: ClassVar[str] = "lease"

    job_id: str = ""
    renewed_at: float | None = None


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


def last_sign_of_life(run: Run, record: JobRecord) -> SignOfLife | None:
    """Read when a job was last known to live; None if it never had a lease.

    Args:
        run: The run that the job belongs to.
        record: Content of the run's ``job.json``.
    """
    lease = Lease.read(run)
    if lease is None or lease.job_id != record.job_id:
        return None
    progress = Progress.read(run)
    reported_at = (progress and progress.updated_at) or 0
    age_seconds = max(0.0, time.time() - max(lease.renewed_at or 0, reported_at))
    has_ended = lease.renewed_at is None
    return SignOfLife(age_seconds, has_ended, not has_ended and age_seconds < 1.5 * _period(run))


def _period(run: Run) -> float:
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
    with holding_leases(lambda: [run], _period(run)):
        yield


@contextlib.contextmanager
def holding_leases(
    held: Callable[[], Sequence[Run]], period_seconds: float = REMOTE_PERIOD_SECONDS
) -> Iterator[None]:
    """Renew the leases of runs whose ``job.json`` names this process, as long as the context lasts.

    Args:
        held: Returns the runs that this process is the job of, fewer each time.
        period_seconds: How often to renew a lease.
    """
    jobs = {run: job for run in held() if (job := JobRecord.read(run))}
    is_over = threading.Event()

    def renew(run: Run, at: float | None) -> None:
        # A full disk must not end the run. Read first: another job may have continued the run,
        # and a directory that was removed must not come into being again.
        with contextlib.suppress(OSError, ValueError):
            if is_of(JobRecord.read(run), jobs[run]):
                Lease(jobs[run].job_id, at).write(run, durable=False)

    def renew_all(at: float | None) -> None:
        runs = [run for run in held() if run in jobs]
        for_each(lambda run: renew(run, at), runs, runs[0].directory if runs else Path())

    def keep_renewing() -> None:
        while not is_over.wait(period_seconds):
            renew_all(time.time())

    renew_all(time.time())
    thread = threading.Thread(target=keep_renewing, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        renew_all(None)
