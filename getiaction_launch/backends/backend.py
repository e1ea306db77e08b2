"""The contract of a backend: have ``run_node`` called once on every node.

A backend is a frozen dataclass that is its own config: a cluster config names its class and its
fields. What a run says of itself (logs, progress, result) lies in the run's directory and needs
no backend; what only the scheduler knows comes from the :class:`Job`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState


@dataclass(frozen=True)
class JobStatus:
    """A state and, in the scheduler's own words, why."""

    state: JobState
    reason: str = ""
    cause: Cause | None = None


class Job(Protocol):
    """What the scheduler knows of one run."""

    def status(self) -> JobStatus:
        """What the scheduler says; cheap enough to be asked every second."""

    def cancel(self) -> None:
        """End it on every node; return when nothing of it runs any more."""


class Backend(Protocol):
    """Starts runs on one kind of cluster."""

    def free_gpus(self, num_nodes: int) -> int | None:
        """GPUs that each of ``num_nodes`` nodes would get; None where only the job will know."""

    def check(self, plan: Plan) -> None:
        """Raise CheckError if this cluster cannot carry out ``plan``."""

    def describe(self, plan: Plan) -> list[str]:
        """What would be started, a command line each, for ``--dry-run``."""

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Start runs whose ``plan.json`` is written; a resumed run goes on in its directory.

        Args:
            runs: One, or the points of a sweep.
            max_parallel: How many of a sweep may run at a time; None for what is usual there.

        Raises:
            LaunchError: If none of them was started.
        """

    def attach(self, run: Run, record: dict[str, Any]) -> Job:
        """Find the job again by what :meth:`submit` wrote into ``job.json``."""
