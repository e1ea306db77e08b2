"""What runs on each node of a job beside its workers, for backends that stand on SLURM's."""

from collections.abc import Callable

from getiaction_launch.run.attempt import Attempt
from getiaction_launch.system.stop import StopRequest


class NodeLostError(Exception):
    """A node cannot go on, by no fault of the run's code; the text says why."""


class Company:
    """Something that runs on a node for as long as the attempt does; here nothing.

    Args:
        attempt: Which.
        node_rank: The node, from 0.
        stop: Set when the node is to end.
    """

    def __init__(self, attempt: Attempt, node_rank: int, stop: StopRequest) -> None:
        self._attempt, self._rank, self._stop = attempt, node_rank, stop

    def start(self) -> None:
        """Return when the workers may start.

        Raises:
            NodeLostError: If they never may.
        """

    def check(self, code: int) -> None:
        """Raise if it has ended before this node's workers, whose exit code is ``code``.

        Raises:
            NodeLostError: If so.
        """

    def await_others(self) -> None:
        """Where this node's workers have ended well, wait for what those of others need of it."""

    def close(self) -> None:
        """End it."""


MakeCompany = Callable[[Attempt, int, StopRequest], Company]
