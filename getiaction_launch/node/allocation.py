"""What a scheduler gives to the process that it starts on each node: the contract of ``join``.

A scheduler that starts a process on every node of a job (SLURM, PBS, Flux, LSF) needs one class
like this and :func:`getiaction_launch.node.joining.join`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from signal import Signals
from typing import Protocol

from getiaction_launch.node.sidecar import MakeSidecar
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause


@dataclass(frozen=True)
class Limits:
    """How long the workers of a node may take.

    Attributes:
        grace_seconds: How long the workers may take between SIGTERM and SIGKILL.
        warning_seconds: How long before the job's time limit the scheduler sends SIGUSR2.
    """

    grace_seconds: float
    warning_seconds: float = 0


class Allocation(Protocol):
    """One node of one start of a job, which the scheduler has given to this process."""

    @property
    def node_rank(self) -> int:
        """Rank of this node in the job, from 0."""

    @property
    def job_id(self) -> str:
        """The scheduler's name for the job."""

    @property
    def key(self) -> str:
        """A name that all processes of this start of the job share with no other start."""

    @property
    def address(self) -> str:
        """Host name or IP address under which the other nodes reach this node."""

    @property
    def limits(self) -> Limits:
        """How long the workers may take to save and to exit."""

    @property
    def make_sidecar(self) -> MakeSidecar:
        """Class or function that makes the sidecar of each node."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment variables for the workers; a variable that is set already keeps its value."""

    def record(self) -> JobRecord:
        """Return the content of ``job.json`` for a run inside the user's own batch script."""

    def owns(self, record: JobRecord) -> bool:
        """Whether ``record`` describes the job, and the step, that this process belongs to."""

    def stop_cause(self, stopped_by: Signals) -> Cause | None:
        """Return why the scheduler sent a signal; None if it did so because another node ended.

        ``Cause.STOP`` means that the scheduler itself decides whether the job starts again.

        Args:
            stopped_by: The first signal that this process received.
        """

    def requeue(self) -> str | None:
        """Ask the scheduler to start this job once more.

        Returns:
            Why it refuses, for people; None if the job will start again.
        """

    def hand_over(self, run: Run) -> str | None:
        """Submit another job that continues the run.

        Args:
            run: The run that this job could not be requeued for.

        Returns:
            Why that is not possible, for people; None if the job was submitted.
        """
