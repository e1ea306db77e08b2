"""What `ls` says of a run: no more than a few of its records say."""

import contextlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from getiaction_launch.launch.listing.below import Found
from getiaction_launch.launch.resuming.change import label
from getiaction_launch.launch.status import RunStatus, not_launched, read_status
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.plan.plan import SweepPoint, Topology
from getiaction_launch.run.records import AttemptRecord, JobRecord, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import children, modified_at

T = TypeVar("T")
_STEP = re.compile(r"step[=_](\d{1,18})\b")


@dataclass(frozen=True)
class Entry:
    """A run in a list.

    Attributes:
        found: Which run it is, and since when it is there.
        status: The status of the run; of a run that nobody launched, UNKNOWN.
        sweep: Its point of a sweep; None for a run on its own, or if its plan is damaged.
        topology: How many processes run where; None if that is not known.
        cluster: What people call the kind of cluster; empty if that is not known.
        elapsed_seconds: Time from the beginning of the first attempt until now, or until the run's
            end; None before that.
        checkpoint_step: Steps up to the newest checkpoint; None if there is none.
    """

    found: Found
    status: RunStatus
    sweep: SweepPoint | None = None
    topology: Topology | None = None
    cluster: str = ""
    elapsed_seconds: float | None = None
    checkpoint_step: int | None = None

    @property
    def state(self) -> str:
        """Where the run stands."""
        return self.status.shown_state


def read_entries(found: Sequence[Found]) -> list[Entry]:
    """Read what is worth knowing of each run; on remote storage, of several at the same time.

    Args:
        found: The runs, in the order of the list.
    """
    return for_each(read_entry, found, found[0].run.directory) if found else []


def read_entry(found: Found) -> Entry:
    """Read what is worth knowing of one run; what cannot be read is left out.

    Args:
        found: The run that is there.
    """
    if not found.is_launched:
        return _not_launched(found, not_launched(found))
    return _entry(found, read_status(found.run))


def entries_of(statuses: Sequence[RunStatus]) -> list[Entry]:
    """Return the entries of runs whose status was just read.

    Args:
        statuses: The status of each run.
    """
    return [
        _not_launched(status.unlaunched, status)
        if status.unlaunched
        else _entry(Found(status.run, _submitted_at(status)), status)
        for status in statuses
    ]


def _submitted_at(status: RunStatus) -> float:
    if status.summary:
        return status.summary.submitted_at
    try:
        return modified_at(status.run.launch_directory / "plan.json")
    except OSError:  # a link that leads to itself, or removed since it was listed
        return time.time()


def _entry(found: Found, status: RunStatus) -> Entry:
    run, attempts, summary = found.run, status.records, status.summary
    if summary:
        sweep, topology = summary.sweep, summary.topology
    else:
        plan = _plan(run)
        sweep, topology = _part(plan, "sweep", SweepPoint), _part(plan, "topology", Topology)
    site = attempts[-1].site if attempts else None
    if site:  # where it ran last
        topology = Topology(site.num_nodes, site.workers_per_node, site.gpus_per_node)
    backend = site.backend if site else _backend(run)
    return Entry(
        *(found, status, sweep, topology, label(backend), elapsed_seconds(attempts)),
        checkpoint_step=_checkpoint_step(status.progress),
    )


def elapsed_seconds(attempts: Sequence[AttemptRecord]) -> float | None:
    """Return the time since the first attempt began, until now or the run's end, in seconds.

    Args:
        attempts: Every attempt of a run, the first one first.
    """
    if not attempts:
        return None
    ended_at = attempts[-1].ended_at
    is_over = ended_at is not None and not attempts[-1].goes_on
    return max(0, (ended_at if is_over and ended_at else time.time()) - attempts[0].started_at)


def _not_launched(found: Found, status: RunStatus) -> Entry:
    """Return what the files of a run say that nobody launched.

    Its curves are not read: they would take longer than all other runs together.
    """
    names = [path.name for path in children(found.run.directory / "checkpoints")]
    steps = [int(step[1]) for name in names if (step := _STEP.search(name))]
    seconds = (found.last_written_at or 0.0) - found.submitted_at
    return Entry(found, status, elapsed_seconds=seconds, checkpoint_step=max(steps, default=None))


def _checkpoint_step(progress: Progress) -> int | None:
    """Return the steps up to the newest checkpoint, the launcher's or the user's."""
    names = progress.checkpoints.values()
    steps = [int(step[1]) for name in names if (step := _STEP.search(name))]
    steps += [progress.checkpoint_step] if progress.checkpoint_step is not None else []
    return max(steps, default=None)


def _plan(run: Run) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        return run.read("plan") or {}
    return {}


def _part(plan: dict[str, object], key: str, cls: type[T]) -> T | None:
    content = plan.get(key)
    with contextlib.suppress(ValueError):  # damaged, or of another program
        return read_dataclass(cls, content, "plan.json") if content else None
    return None


def _backend(run: Run) -> str:
    record = None
    with contextlib.suppress(OSError, ValueError):
        record = JobRecord.read(run)
    return record.backend.class_path if record else ""
