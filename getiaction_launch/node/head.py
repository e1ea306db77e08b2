"""The address of rank 0's node, tried from each other node before workers are given it.

A worker that cannot reach rank 0 retries for half an hour, and only its own log says why.
"""

import socket
import time
from collections.abc import Callable
from dataclasses import replace

from getiaction_launch.errors import LaunchError, UnreachableError
from getiaction_launch.run.attempt import EXIT_FAILED, Attempt
from getiaction_launch.run.node_records import NodeEnd
from getiaction_launch.system.addresses import complaint, own_addresses

REACH_SECONDS = 30
RETRY_SECONDS = 1
NOT_STARTED = "the node could not start its workers"


def reach_head(
    attempt: Attempt, node_rank: int, is_stopped: Callable[[], object] = lambda: None
) -> Attempt:
    """Return the attempt with an address of rank 0's node that this node can reach.

    The first choice is the name that rank 0's node has given itself, then its IP addresses.

    Args:
        attempt: The attempt that this node belongs to.
        node_rank: Rank of this node, from 0.
        is_stopped: Returns whether the attempt must stop, which ends the wait.

    Raises:
        UnreachableError: If no address can be reached for :data:`REACH_SECONDS`. It has been
            recorded as the error of the node's first worker.
    """
    name, _, port = attempt.head.rpartition(":")
    if node_rank == 0 or not name:
        return attempt
    # Two nodes can be one machine, where rank 0's addresses are this node's own.
    is_elsewhere = bool(attempt.other_addresses) and set(attempt.other_addresses) != {
        *own_addresses()
    }
    deadline = time.monotonic() + REACH_SECONDS
    while not is_stopped():
        complaints: list[str] = []
        for address in dict.fromkeys([name, *attempt.other_addresses]):
            found = complaint(address, int(port), is_elsewhere=is_elsewhere)
            if found is None:
                if complaints:
                    print(f"rank 0 is at {address}:{port}: {'; '.join(complaints)}", flush=True)
                return replace(attempt, head=f"{address}:{port}")
            complaints.append(found)
        if time.monotonic() > deadline:
            why = f"{socket.gethostname()} cannot reach the node of rank 0 at {attempt.head}"
            error = UnreachableError(f"{why} ({'; '.join(complaints)})")
            raise record_failure(attempt, node_rank, error)
        time.sleep(RETRY_SECONDS)
    return attempt


def record_failure(
    attempt: Attempt, node_rank: int, error: LaunchError, host: str | None = None
) -> LaunchError:
    """Record why a node cannot start its workers; returns the error, to be raised.

    Args:
        attempt: The attempt that the node belongs to.
        node_rank: Rank of the node, from 0.
        error: Why its workers cannot start.
        host: Host name of the node; this machine's by default.
    """
    message = f"{NOT_STARTED}: {error}"
    attempt.write_node_error(node_rank, type(error).__name__, message, host)
    if host is None and node_rank > 0:
        NodeEnd(EXIT_FAILED).write(attempt.run, attempt.number, node_rank)
    return error
