"""The contract of a backend: have ``run_node`` called once on every node.

A backend is a frozen dataclass that is its own config: a cluster config names its class and its
fields. What a run says of itself (logs, progress, result) lies in the run's directory and needs
no backend; what only the scheduler knows comes from the :class:`Job`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from getiaction_launch.plan import Plan
from getiaction_launch.run import Run


class JobState(str, Enum):
    """Where a job stands, in the same words on every backend."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_over(self) -> bool:
        """Nothing runs any more."""
        return self in _OVER


_OVER = {JobState.INTERRUPTED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


@dataclass(frozen=True)
class JobStatus:
    """A state and, in the scheduler's or the worker's own words, why."""

    state: JobState
    reason: str = ""


class Job(Protocol):
    """What the scheduler knows of one run."""

    def status(self) -> JobStatus:
        """Ask once; cheap enough to be asked every second."""

    def cancel(self) -> None:
        """End it on every node; return when nothing of it runs any more."""


class Backend(Protocol):
    """Starts runs on one kind of cluster."""

    @property
    def starts_at_once(self) -> bool:
        """Whether a submitted run starts now, so that its workers are the first to judge the spec.

        Otherwise the spec is judged before the queue, at the price of importing torch twice.
        """

    def free_gpus(self, num_nodes: int) -> int | None:
        """GPUs that each of ``num_nodes`` nodes would get; None where only the job will know."""

    def check(self, plan: Plan) -> None:
        """Raise CheckError if this cluster cannot carry out ``plan``."""

    def describe(self, plan: Plan) -> list[str]:
        """What would be started, a command line each, for ``--dry-run``."""

    def submit(self, run: Run) -> Job:
        """Start the run whose ``plan.json`` is written."""

    def attach(self, run: Run, record: dict[str, Any]) -> Job:
        """Find the job again by what :meth:`submit` wrote into ``job.json``."""
