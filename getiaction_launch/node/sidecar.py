"""A sidecar: a process that runs on each node next to the workers, as long as the attempt does."""

from collections.abc import Callable

from getiaction_launch.run.attempt import Attempt
from getiaction_launch.system.stop import StopRequest


class NodeLostError(Exception):
    """A node cannot continue, through no fault of the run's own code; the message says why."""


class Sidecar:
    """The sidecar of backends that need none: its methods do nothing.

    Args:
        attempt: The attempt that the sidecar accompanies.
        node_rank: Rank of this node, from 0.
        stop: Set when the workers of this node must stop.
    """

    def __init__(self, attempt: Attempt, node_rank: int, stop: StopRequest) -> None:
        self._attempt, self._rank, self._stop = attempt, node_rank, stop

    def start(self) -> None:
        """Start the sidecar, and return when the workers may start.

        Raises:
            NodeLostError: If the sidecar cannot start.
        """

    def check(self, code: int) -> None:
        """Raise if the sidecar ended before this node's workers did.

        Args:
            code: Exit code of this node, as returned by
                :func:`getiaction_launch.node.node.run_node`.

        Raises:
            NodeLostError: If the sidecar has died.
        """

    def await_others(self) -> None:
        """Keep the sidecar running for other nodes after this node's workers have finished."""

    def close(self) -> None:
        """Stop the sidecar and remove the files that it has written."""


MakeSidecar = Callable[[Attempt, int, StopRequest], Sidecar]
