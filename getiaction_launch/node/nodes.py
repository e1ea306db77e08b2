"""What :func:`~getiaction_launch.node.conductor.drive` needs of the nodes that it starts."""

from collections.abc import Sequence
from typing import Protocol

from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.state import Cause


class NodeHandle(Protocol):
    """One node that :func:`drive` has started."""

    def poll(self) -> int | None:
        """Return the exit code of the node's process; None while it runs.

        Raises:
            NodeLostError: If the node does not answer any more.
        """

    def stop(self) -> None:
        """Send SIGTERM to the node's process if it still runs, and return at once."""


class Nodes(Protocol):
    """The nodes on which :func:`drive` runs attempts."""

    @property
    def poll_seconds(self) -> float:
        """How often to ask how the nodes are, in seconds."""

    def reserve_head(self) -> tuple[str, int]:
        """Return the address of the first node, and a port there reserved for the attempt.

        Raises:
            NodeLostError: If a node does not answer.
        """

    def start(self, attempt: Attempt) -> Sequence[NodeHandle]:
        """Start the process of every node, the first one first.

        Raises:
            NodeLostError: If a node does not answer.
            LaunchError: If a node cannot start its process.
        """

    def stop_cause(self) -> Cause | None:
        """Return why these nodes will soon be taken away; None if they may be kept."""

    def clean(self, exit_codes: Sequence[int | None]) -> None:
        """Kill the processes that the workers of an attempt have left behind.

        Args:
            exit_codes: Exit code of each node's process; None for a node that has gone silent.
        """
