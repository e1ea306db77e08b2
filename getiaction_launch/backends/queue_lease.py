"""The lease of a queue: one for all runs that wait in it, beside the runs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from getiaction_launch.backends.starting import QUEUE, is_waiting
from getiaction_launch.errors import LaunchError
from getiaction_launch.run.lease import (
    QUEUE_PREFIX,
    Lease,
    period_of,
    place_of_queue,
    renewing,
)
from getiaction_launch.run.records import JobRecord, load
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import children, remove, write_json


@contextlib.contextmanager
def holding_lease_of_queue(
    queue: str, job_id: str, runs: Sequence[Run], waits: Callable[[Run], bool]
) -> Iterator[None]:
    """Renew one lease for all runs that wait in a queue, as long as the context lasts.

    Args:
        queue: The name of the queue.
        job_id: The id of this process in the ``job.json`` of each run that waits.
        runs: The runs of the queue.
        waits: Whether a run still waits by its ``job.json``. The lease is removed if none does at
            last; otherwise it says that the process has ended.
    """
    place = place_of_queue(runs[0], queue)  # all have the same root
    names = [run.name for run in runs]

    def renew(at: float | None) -> None:
        if at or any(for_each(waits, runs, runs[0].directory)):
            write_json(place, Lease(job_id, at, names).content(), durable=False)
        else:
            remove(place)

    with renewing(renew, period_of(runs[0])):
        yield


def remove_left_leases(root: Path) -> None:
    """Remove the leases of dead queues in which no run waits any more.

    As long as one does, the lease says on every machine that nobody will start it.

    Args:
        root: Directory or URL of the runs.
    """
    with contextlib.suppress(OSError, LaunchError):  # they only take space
        for place in children(root):
            if place.name.startswith(QUEUE_PREFIX):
                _remove_if_left(place)


def _remove_if_left(place: Path) -> None:
    def waits(run: Run) -> bool:
        record = JobRecord.read(run)
        if record is None or not is_waiting(record):
            return False
        return place == place_of_queue(run, str(record.details[QUEUE]))

    with contextlib.suppress(ValueError):  # damaged: nothing can be said about it
        lease = load(Lease, place)
        if lease is None or lease.runs is None or not lease.is_dead:
            return
        runs = [Run(place.parent / name) for name in lease.runs]
        if not any(for_each(waits, runs, place.parent)):
            remove(place)
