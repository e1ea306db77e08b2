"""Records of processes that could not say themselves why they ended."""

import contextlib
import signal
import socket
from collections.abc import Mapping

from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.node_records import WORKER_DIED, WorkerError
from getiaction_launch.system.memory import count_oom_kills


def record_kills(attempt: Attempt, exit_codes: Mapping[int, int | None], kills_before: int) -> None:
    """Record which nodes' processes the kernel has killed because memory ran out.

    Args:
        attempt: The attempt that the nodes belong to.
        exit_codes: Exit code of each node's process on this machine, by the node's rank.
        kills_before: How often the kernel had killed before the attempt.
    """
    killed = [rank for rank, code in exit_codes.items() if code == -signal.SIGKILL]
    if not killed or count_oom_kills() <= kills_before:
        return
    how = "the node's process was killed by SIGKILL because its memory limit was reached"
    for node_rank in killed:
        with contextlib.suppress(OSError):  # a full disk must not hide that the node is gone
            attempt.write_node_error(node_rank, "OutOfMemory", how)


def record_death(
    attempt: Attempt, rank: int, node_rank: int, returncode: int, *, is_oom: bool
) -> None:
    """Record why a worker ended, unless it has recorded an exception itself.

    Args:
        attempt: The attempt that the worker belongs to.
        rank: Rank of the worker in the run, from 0.
        node_rank: Rank of this node, from 0.
        returncode: How the worker's process ended, as :mod:`subprocess` says it.
        is_oom: Whether the kernel has killed a process here because memory ran out.
    """
    name = WORKER_DIED
    if returncode < 0:
        signal_name = signal.Signals(-returncode).name
        message = f"the worker was killed by {signal_name}"
        if signal_name == "SIGKILL" and is_oom:
            name, message = "OutOfMemory", f"{message} because its memory limit was reached"
        elif signal_name == "SIGKILL":
            message += ", often because the machine ran out of memory"
    else:
        message = f"the worker exited with code {returncode} and no exception"
    with contextlib.suppress(OSError):  # a full disk must not keep the node from ending the others
        attempt.run.local.write_error(
            attempt.number, WorkerError(rank, node_rank, socket.gethostname(), name, message)
        )
