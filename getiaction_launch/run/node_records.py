"""How nodes and workers ended: what they write next to their logs, in ``logs/attempt_N/``."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.run.records import load, plain
from getiaction_launch.storage.paths import write_json

if TYPE_CHECKING:
    from getiaction_launch.run.run import Run

WORKER_DIED = "WorkerDied"
"""Type of the error of a worker that a signal has killed, or that has left without a word."""

TIMED_OUT = "because a collective timed out"
"""How the message about a worker ends that NCCL's watchdog has aborted."""

COLLECTIVE_TIMED_OUT = "a collective timed out"
"""How the reason of an attempt begins that names the ranks for which a collective has waited."""

STALLED = "Stalled"
"""Type of the error of a rank that the others have waited for in vain."""


@dataclass(frozen=True)
class NodeEnd:
    """``logs/attempt_N/node_R.json``: how one node ended. Written by that node.

    Attributes:
        exit_code: Exit code of the node, as returned by
            :func:`getiaction_launch.node.node.run_node`.
        lost: Why the node was lost, through no fault of the run's own code; otherwise None.
    """

    exit_code: int
    lost: str | None = None

    @classmethod
    def read(cls, run: "Run", attempt: int, node_rank: int) -> "NodeEnd | None":
        """Read how a node ended; None while it runs."""
        return load(cls, _node_path(run, attempt, node_rank))

    def write(self, run: "Run", attempt: int, node_rank: int) -> None:
        """Write how this node ended."""
        write_json(_node_path(run, attempt, node_rank), plain(self))


def _node_path(run: "Run", attempt: int, node_rank: int) -> Path:
    return run.log_directory(attempt) / f"node_{node_rank}.json"


@dataclass(frozen=True)
class WorkerError:
    """``logs/attempt_N/error_rank_R.json``: why a worker failed. Written by it or by its node.

    Attributes:
        rank: The worker's rank among all workers.
        node_rank: Rank of the node that the worker ran on.
        host: Host name of that node.
        type: Class name of the exception.
        message: Text of the exception.
        traceback: Traceback in the worker; empty if the worker could not write one.
        is_consequence: Whether the exception only means that another worker is gone.
        failed_at: When the worker failed, in seconds since the epoch.
    """

    rank: int
    node_rank: int
    host: str
    type: str
    message: str
    traceback: str = ""
    is_consequence: bool = False
    failed_at: float = field(default_factory=time.time)

    def __str__(self) -> str:
        return f"rank {self.rank} on node {self.node_rank} ({self.host}): {self.summary}"

    @property
    def summary(self) -> str:
        """``ValueError: message``, as a traceback ends."""
        return f"{self.type}: {self.message}"
