"""Asks the nodes of a running attempt for the stacks of their ranks, and waits for the answers."""

import time
from dataclasses import dataclass

from getiaction_launch.errors import CheckError, UnreachableError
from getiaction_launch.launch.status import read_status
from getiaction_launch.launch.trust import check_owner
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.beats.stacks import NodeStacks, StacksRequest
from getiaction_launch.run.records import read_attempts
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import is_remote

LIMIT_SECONDS = 60.0
REMOTE_LIMIT_SECONDS = 120.0
"""How long to wait for the nodes, which look for a request every few seconds."""
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Answered:
    """The stacks of an attempt.

    Attributes:
        attempt: Number of the attempt, from 0.
        nodes: What the nodes have answered, the node of rank 0 first.
        silent: Ranks of the nodes that have not answered.
    """

    attempt: int
    nodes: list[NodeStacks]
    silent: list[int]


def ask_for_stacks(
    run: Run, *, trust: bool = False, limit_seconds: float | None = None
) -> Answered:
    """Have every node of a run read the stacks of its ranks now.

    Args:
        run: The run, which must be training.
        trust: Whether to write into the directory of another user's run; without it, that is
            refused.
        limit_seconds: How long to wait for the nodes; longer on remote storage by default.

    Raises:
        CheckError: If the run is not running.
        UnreachableError: If no node answers.
    """
    if not trust:
        check_owner(run, "stacks")
    number = running_attempt(run, "has no processes that have stacks")
    num_nodes = Plan.of(run).topology.num_nodes
    is_far = is_remote(run.directory)
    limit = limit_seconds or (REMOTE_LIMIT_SECONDS if is_far else LIMIT_SECONDS)
    request = StacksRequest.make(number)
    request.write(run, durable=False)
    deadline = time.monotonic() + limit
    nodes: dict[int, NodeStacks] = {}
    while len(nodes) < num_nodes and time.monotonic() < deadline:
        time.sleep(max(_POLL_SECONDS, run.poll_seconds))
        # Who asked a moment later has replaced the request: the answers to that are as good.
        token = (StacksRequest.read(run) or request).token
        for rank in set(range(num_nodes)) - nodes.keys():
            answer = NodeStacks.read(run, number, rank)
            if answer and answer.token in (token, request.token):
                nodes[rank] = answer
    if not nodes:
        raise UnreachableError(
            f"no node of run {run.name} has answered in {limit:.0f} s.",
            f"See whether its job lives: getiaction-launch status {run.directory}",
        )
    silent = [rank for rank in range(num_nodes) if rank not in nodes]
    return Answered(number, [nodes[rank] for rank in sorted(nodes)], silent)


def running_attempt(run: Run, what: str) -> int:
    """Return the number of the attempt that is running.

    Args:
        run: The run, which must be running.
        what: What is true of one that is not, for the error message.

    Raises:
        CheckError: If the run is not running.
    """
    status = read_status(run)
    attempts = read_attempts(run)
    if status.state is JobState.UNKNOWN and attempts:
        return attempts[-1].number  # the nodes may live although nobody can say
    if status.state is not JobState.RUNNING or not attempts or attempts[-1].ended_at is not None:
        raise CheckError(
            f"run {run.name} is {status.state.value} and {what}.",
            f"See why: getiaction-launch status {run.directory}",
        )
    return attempts[-1].number
