"""What a scheduler gives to a process that it starts on a node: the contract of ``join``.

A scheduler that starts a process on every node of a job (SLURM, PBS, Flux, LSF) needs one class
like this and :func:`getiaction_launch.node.conductor.join`.
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
        grace_seconds: Between SIGTERM and SIGKILL.
        warning_seconds: How long before the job's time limit the scheduler sends SIGUSR2.
    """

    grace_seconds: float
    warning_seconds: float = 0


class Allocation(Protocol):
    """What a scheduler has given to this process: one node of one start of a job."""

    @property
    def node_rank(self) -> int:
        """Rank of this node in the job, from 0."""

    @property
    def job_id(self) -> str:
        """The scheduler's name for the job."""

    @property
    def key(self) -> str:
        """What the processes of this start of the job share with no other start."""

    @property
    def address(self) -> str:
        """Name or address of this node, as the other nodes reach it."""

    @property
    def limits(self) -> Limits:
        """How long the workers may take to save and to end."""

    @property
    def make_sidecar(self) -> MakeSidecar:
        """Makes what runs next to the workers on each node."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables for the workers, where they are not set."""

    def record(self) -> JobRecord:
        """What ``job.json`` must say where the batch script is the user's own."""

    def owns(self, record: JobRecord) -> bool:
        """Whether ``record`` is that of the job, and of the step, that this process is in."""

    def stop_cause(self, stopped_by: Signals) -> Cause | None:
        """Why the scheduler has sent this signal; None if another node's end was the reason.

        ``Cause.STOP`` means that the scheduler itself decides whether the job starts again.
        """

    def requeue(self) -> str | None:
        """Have the scheduler start this job once more; returns why not, None if it will."""

    def hand_over(self, run: Run) -> str | None:
        """Submit another job that continues the run; returns why not, None if it was submitted."""
