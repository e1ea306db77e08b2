"""Run one attempt after another on nodes that this process starts (this machine, Ray).

Where a scheduler starts a process on every node, :mod:`getiaction_launch.node.joining` does this.
Beware: what a node needs is not imported here, as its own process imports it once more.
"""

import contextlib
import itertools
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager

from getiaction_launch.errors import LaunchError
from getiaction_launch.node.deaths import record_kills
from getiaction_launch.node.guard import Guard
from getiaction_launch.node.nodes import Nodes, watch
from getiaction_launch.node.opening import begin
from getiaction_launch.node.outage import end, outlast
from getiaction_launch.node.sidecar import NodeLostError
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.restart import allow_another, judge, may_begin
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.memory import count_oom_kills

_starts = itertools.count()


def drive(
    run: Run,
    place: Callable[[], AbstractContextManager[Nodes | None]],
    is_stopped: Callable[[], bool],
    patience_seconds: float | None = None,
) -> Ending | None:
    """Run attempts on nodes that this process starts, until the run has ended.

    Args:
        run: The run to train.
        place: Called for nodes, and once more after a node was lost. Its context manager yields
            the nodes, or None if the run was stopped before there were any; it raises TimeoutError
            if there is a limit to the wait.
        is_stopped: Returns whether somebody has asked for the run's end.
        patience_seconds: How long nodes may take to stop before they count as silent; None for as
            long as they need.

    Returns:
        How the last attempt ended; None if no attempt has begun.
    """
    ending: Ending | None = None
    guard = Guard(run)
    if not may_begin(run):
        return None
    while not is_stopped() and (ending is None or ending.goes_on):
        with contextlib.ExitStack() as stack:
            try:
                nodes = stack.enter_context(place())
            except TimeoutError as error:
                return _give_up(run, str(error), is_stopped)
            is_whole = nodes is not None
            while nodes and is_whole and not is_stopped():
                ending, is_whole = _run_attempt(run, nodes, is_stopped, patience_seconds, guard)
                is_whole = is_whole and ending.goes_on
    return ending


def _give_up(run: Run, reason: str, is_stopped: Callable[[], bool]) -> Ending:
    """End a run that has got no nodes."""
    ending = Ending(JobState.FAILED, Cause.NODE_FAILURE, reason)
    return _record(begin(run, _key(), ("", 0), is_stopped), lambda: ending, is_stopped)


def _key() -> str:
    return f"{socket.gethostname()}.{os.getpid()}.{next(_starts)}"


def _run_attempt(
    run: Run,
    nodes: Nodes,
    is_stopped: Callable[[], bool],
    patience_seconds: float | None,
    guard: Guard,
) -> tuple[Ending, bool]:
    """Run one attempt; returns how it ended, and whether the next one can use the same nodes."""
    if loss := guard.confirm_loss():
        return _abandon(loss), False
    try:
        head = nodes.reserve_head()
    except (NodeLostError, LaunchError) as error:
        return _fail(begin(run, _key(), ("", 0), is_stopped), error, is_stopped), False
    attempt = begin(run, _key(), head, is_stopped)
    kills = count_oom_kills()
    try:
        handles = nodes.start(attempt)
    except (NodeLostError, LaunchError) as error:
        return _fail(attempt, error, is_stopped), False
    exit_codes = watch(handles, nodes, is_stopped, patience_seconds)
    record_kills(attempt, dict(enumerate(exit_codes)), kills)
    nodes.clean(exit_codes)
    if loss := guard.confirm_loss():
        return _abandon(loss), False
    stopped_by = Cause.STOP if is_stopped() else nodes.stop_cause()

    def decide() -> Ending:
        return allow_another(run, judge(run, attempt.number, exit_codes, stopped_by))

    return _record(attempt, decide, is_stopped), None not in exit_codes and stopped_by is None


def _fail(attempt: Attempt, error: Exception, is_stopped: Callable[[], bool]) -> Ending:
    """End an attempt whose nodes could not be started."""
    is_loss = isinstance(error, NodeLostError)
    cause = Cause.NODE_FAILURE if is_loss else Cause.CRASH
    ending = Ending(JobState.FAILED, cause, str(error))
    return _record(attempt, lambda: allow_another(attempt.run, ending), is_stopped)


def _record(
    attempt: Attempt, decide: Callable[[], Ending], is_stopped: Callable[[], bool]
) -> Ending:
    """Record how an attempt ended, as soon as storage allows it."""

    def conclude() -> Ending:
        ending = decide()
        end(attempt, ending)
        return ending

    return outlast(attempt, conclude, is_stopped, lambda ending: ending)


def _abandon(loss: str) -> Ending:
    """End without writing anything: the run does not belong to this job any more."""
    print(f"ended, because {loss}", flush=True)
    return Ending(JobState.FAILED, Cause.NODE_FAILURE, loss)
