"""The nodes that :func:`~getiaction_launch.node.conductor.drive` starts, and the wait for them."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from getiaction_launch.node.sidecar import NodeLostError
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.state import Cause

MARGIN_SECONDS = 15
"""How much longer than their workers nodes may take to end."""
SAVE_LIMIT_SECONDS = 120
"""How much longer than the other workers a worker may live to finish saving a checkpoint."""


def node_command(directory: str, attempt: int, node_rank: int, grace_seconds: float) -> list[str]:
    """Return the command line of one node, which is :mod:`getiaction_launch.node.node`."""
    flags = {"--attempt": attempt, "--node-rank": node_rank, "--grace-seconds": grace_seconds}
    words = [str(word) for flag in flags.items() for word in flag]
    return [sys.executable, "-m", "getiaction_launch.node.node", directory, *words]


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


def _poll(handle: NodeHandle) -> tuple[bool, int | None]:
    """Return whether a node has ended, and its exit code; None for a node that is lost."""
    try:
        code = handle.poll()
    except NodeLostError:
        return True, None
    return code is not None, code


def watch(
    handles: Sequence[NodeHandle],
    nodes: Nodes,
    is_stopped: Callable[[], bool],
    patience_seconds: float | None,
) -> list[int | None]:
    """Wait for all nodes and return their exit codes; None for a node that has gone silent.

    Args:
        handles: The nodes, in the order of ranks.
        nodes: What they are nodes of.
        is_stopped: Returns whether somebody has asked for the run's end.
        patience_seconds: How long nodes may take to stop before they count as silent; None for as
            long as they need.
    """
    codes: dict[int, int | None] = {}
    stopped_at: float | None = None
    while len(codes) < len(handles):
        for rank, handle in enumerate(handles):
            has_ended, code = (False, None) if rank in codes else _poll(handle)
            if has_ended:
                codes[rank] = code
        has_failed = any(code != 0 for code in codes.values())
        if stopped_at is None and (has_failed or is_stopped() or nodes.stop_cause()):
            stopped_at = time.monotonic()
            for handle in handles:
                handle.stop()
        waited_seconds = 0 if stopped_at is None else time.monotonic() - stopped_at
        if patience_seconds is not None and waited_seconds > patience_seconds:
            break
        if len(codes) < len(handles):
            time.sleep(nodes.poll_seconds)
    return [codes.get(rank) for rank in range(len(handles))]
