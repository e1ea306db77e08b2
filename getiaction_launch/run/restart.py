"""How an attempt ended, and whether another one follows.

:func:`judge` decides how an attempt ended, :func:`allow_another` whether the run's restart budgets
allow another one, and :func:`may_begin` whether a job that a scheduler has started may train at
all. :func:`reopen` lets a run that has ended continue.
"""

import contextlib
import signal
from collections.abc import Sequence
from dataclasses import replace

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import EXIT_FAILED, Ending, newest_attempt, record_end, write_end
from getiaction_launch.run.beats.oddness import Odd, find_absent, has_timed_out, states_of
from getiaction_launch.run.beats.records import read_beats
from getiaction_launch.run.beats.stacks import NodeStacks
from getiaction_launch.run.node_records import (
    COLLECTIVE_TIMED_OUT,
    STALLED,
    WORKER_DIED,
    WorkerError,
)
from getiaction_launch.run.reading.summary import forget_summary
from getiaction_launch.run.records import AttemptRecord, Cancel, Done, read_attempts
from getiaction_launch.run.repeating.attempts import repeated_epoch, stands_still
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED, Cause, JobState

_BUDGETS = {
    Cause.CRASH: "crashes",
    Cause.OUT_OF_MEMORY: "crashes",
    Cause.NODE_FAILURE: "node_failures",
    Cause.TIME_LIMIT: "interruptions",
    Cause.PREEMPTION: "interruptions",
    Cause.STALL: "interruptions",
}
_INTERRUPTIONS = {
    Cause.TIME_LIMIT: "its time limit was near",
    Cause.PREEMPTION: "preempted",
    Cause.NODE_FAILURE: "a node of its job was lost",
    Cause.OUT_OF_MEMORY: "a node's memory limit was reached",
    Cause.CANCEL: "cancelled by you",
}
_SILENT = Ending(JobState.FAILED, Cause.NODE_FAILURE, "it ended without recording why")
CANCELLED = Ending(JobState.CANCELLED, Cause.CANCEL, "cancelled by you")
"""How a cancelled run ends."""


def judge(
    run: Run, attempt: int, exit_codes: Sequence[int | None], stopped_by: Cause | None = None
) -> Ending:
    """Decide how an attempt ended.

    Args:
        run: The run that was started.
        attempt: The attempt's number, from 0.
        exit_codes: Exit code of every node's process: 0, ``EXIT_FAILED``, ``EXIT_INTERRUPTED``,
            negative for the signal that killed it, or None if the node stopped responding.
        stopped_by: Why the nodes were asked to stop, if that is known.
    """
    if set(exit_codes) == {0}:
        return Ending(JobState.SUCCEEDED)
    if Cancel.read(run):
        return CANCELLED
    error = run.first_error(attempt)
    has_failed = error is not None and not error.is_consequence
    lost = [rank for rank, code in enumerate(exit_codes) if code is None or code < 0]
    if not has_failed and lost and stopped_by is None:
        code = exit_codes[lost[0]]
        how = f"was killed by {signal.Signals(-code).name}" if code else "stopped responding"
        return Ending(JobState.FAILED, Cause.NODE_FAILURE, f"node {lost[0]} {how}")
    # An error that looks like a consequence is one only if something else can have caused it.
    is_echo = stopped_by not in (None, Cause.STOP) or EXIT_FAILED not in exit_codes
    if not has_failed and is_echo and (stopped_by or EXIT_INTERRUPTED in exit_codes):
        cause = stopped_by or Cause.STOP
        is_loss = cause in (Cause.NODE_FAILURE, Cause.OUT_OF_MEMORY)
        state = JobState.FAILED if is_loss else JobState.INTERRUPTED
        return Ending(state, cause, _INTERRUPTIONS.get(cause, "stopped on request"))
    return _of_error(run, attempt, error, stopped_by)


def _of_error(
    run: Run, attempt: int, error: WorkerError | None, stopped_by: Cause | None
) -> Ending:
    if error is None:
        return Ending(JobState.FAILED, Cause.CRASH, "no worker reported an error; see the logs")
    if error.type == STALLED:
        return Ending(JobState.INTERRUPTED, Cause.STALL, error.message)
    if has_timed_out(error) and (absent := _absent(run, attempt)):
        reason = f"{COLLECTIVE_TIMED_OUT}: {absent.reason}; {error}"
        return Ending(JobState.FAILED, Cause.CRASH, reason)
    is_oom = error.type == "OutOfMemory"
    is_oom = is_oom or (error.type == WORKER_DIED and stopped_by is Cause.OUT_OF_MEMORY)
    cause = Cause.OUT_OF_MEMORY if is_oom else Cause.CRASH
    return Ending(JobState.FAILED, cause, str(error))


def _absent(run: Run, attempt: int) -> Odd | None:
    """Return which ranks did not arrive in a collective; None if the beats do not say."""
    beats = read_beats(run, attempt)
    with contextlib.suppress(RecordError):
        stacks = [NodeStacks.read(run, attempt, node.node_rank) for node in beats]
        return find_absent(states_of(beats, [each for each in stacks if each]))
    return None


def may_begin(run: Run) -> bool:
    """Whether another attempt may begin, no matter who starts it.

    Schedulers also requeue jobs on their own: after a node was lost, on an administrator's request
    and while somebody cancels. If the last attempt could not record how it ended, this does.
    """
    if Done.read(run) or Cancel.read(run):
        return False
    last = newest_attempt(run)
    if last is None:
        return True
    if last.ended_at is not None:
        record_end(run, last)
        return last.goes_on
    silent = replace(_SILENT, goes_on=True) if last.goes_on else allow_another(run, _SILENT)
    write_end(run, last, silent)
    return silent.goes_on


def allow_another(run: Run, ending: Ending) -> Ending:
    """Decide by the run's restart budgets whether another attempt follows ``ending``.

    Time limits usually have no budget, so a run that reaches two of them in a row without saving a
    new checkpoint is not restarted: it would be restarted for ever.

    Args:
        run: The run, with the restart budgets in its plan.
        ending: How the last attempt ended.

    Returns:
        The same ending, which now says whether another attempt follows, and if not, why.
    """
    budget = _BUDGETS.get(ending.cause) if ending.cause else None
    if budget is None or ending.state is JobState.CANCELLED:
        return ending
    limit: int | None = getattr(Plan.of(run).restarts, budget)
    if limit is not None and _used(run, budget) >= limit:
        spent = f"{ending.reason} (not restarted: restarts.{budget}={limit} is used up)"
        return replace(ending, reason=spent if limit else ending.reason)
    if ending.cause in (Cause.TIME_LIMIT, Cause.STALL) and stands_still(run, ending.cause):
        reason = f"{ending.reason} (not restarted: two attempts in a row saved no progress)"
        is_stall = ending.cause is Cause.STALL  # it would stand still there again
        state = JobState.FAILED if is_stall else JobState.INTERRUPTED
        return Ending(state, ending.cause, reason)
    if budget == "interruptions" and (repeated := repeated_epoch(run)):
        reason = f"{ending.reason} (not restarted: {repeated})"
        return Ending(JobState.INTERRUPTED, ending.cause, reason)
    return replace(ending, goes_on=True)


def _used(run: Run, budget: str) -> int:
    """Count the restarts that a budget was used for; who calls this bounds how often it is read."""
    # Not the last one, of which this is the end: storage may have it and have failed to say so.
    records = read_attempts(run)[:-1]
    return sum(_BUDGETS.get(record.cause) == budget for record in records if record.cause)


def reopen(run: Run) -> AttemptRecord | None:
    """Let another attempt follow the last one, although the run has ended.

    Returns:
        The record of the last attempt before this call; None if no attempt has begun.
    """
    forget_summary(run)
    last = newest_attempt(run)
    if last:
        replace(last, goes_on=True).write(run)
    Cancel.remove(run)
    return last
