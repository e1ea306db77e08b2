"""Be one node of an attempt, where a scheduler starts a process on every node.

SLURM, PBS, Flux and LSF do so. Each process is one node, and the one of rank 0 also opens the
attempt, records how it ended and asks the scheduler for a restart.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from signal import SIGKILL, SIGTERM

from getiaction_launch.node.allocation import Allocation, Limits
from getiaction_launch.node.guard import RunLostError
from getiaction_launch.node.network.meeting import meet
from getiaction_launch.node.node import await_save, run_node
from getiaction_launch.node.nodes import MARGIN_SECONDS, SAVE_LIMIT_SECONDS
from getiaction_launch.node.opening import await_attempt, begin
from getiaction_launch.node.outage import end, outlast
from getiaction_launch.node.sidecar import NodeLostError, Sidecar
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import EXIT_FAILED, Attempt, Ending
from getiaction_launch.run.node_records import WORKER_DIED, NodeEnd
from getiaction_launch.run.records import Cancel, Done, JobRecord
from getiaction_launch.run.restart import allow_another, judge, may_begin
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED, Cause, JobState
from getiaction_launch.system.addresses import own_addresses
from getiaction_launch.system.ports import reserve_port
from getiaction_launch.system.stop import StopRequest

ECHO_SECONDS = 5


def join(run: Run, allocation: Allocation, stop: StopRequest | None = None) -> int:
    """Be one node of one attempt; on the node of rank 0 also open the attempt and end it.

    Args:
        run: The run that the job belongs to.
        allocation: What the scheduler has given to this process.
        stop: Set by the signals of the scheduler; made here if not given.

    Returns:
        0 if this node succeeded or another attempt follows, otherwise ``EXIT_FAILED``; the
        scheduler should then end the other nodes.
    """
    stop = stop or StopRequest()
    if Done.read(run):
        return 0  # the job was requeued after its end, or for a later step
    job = JobRecord.read(run)
    if job and allocation.job_id in job.previous_job_ids:
        return 0  # another job has continued the run
    for name, value in allocation.environment.items():
        os.environ.setdefault(name, value)
    try:
        if allocation.node_rank > 0:
            return _follow(await_attempt(run, allocation.key, stop), allocation, stop)
        if may_begin(run):
            return _lead(run, allocation, stop)
    except RunLostError as loss:
        print(f"node {allocation.node_rank}: ended, because {loss}", flush=True)
        return EXIT_FAILED
    print(f"run {run.name} has ended and is not restarted", flush=True)
    return EXIT_FAILED


def _lead(run: Run, allocation: Allocation, stop: StopRequest) -> int:
    port, claim = reserve_port()
    with claim:
        attempt = begin(
            *(run, allocation.key, (allocation.address, port), lambda: bool(stop.signal)),
            other_addresses=own_addresses(),
        )
        with contextlib.ExitStack() as stack:
            end = _meet_and_run(attempt, allocation, stop, stack)

            def gather() -> list[NodeEnd | None]:
                return _gather_ends(attempt, end, allocation.limits, stop)

            own: list[NodeEnd | None] = [end]
            ends = outlast(attempt, gather, lambda: bool(stop.signal), lambda _: own)

    def conclude() -> int:
        return _conclude(attempt, ends, allocation, stop)

    return outlast(attempt, conclude, lambda: bool(stop.signal), lambda _: EXIT_FAILED)


def _meet_and_run(
    attempt: Attempt, allocation: Allocation, stop: StopRequest, stack: contextlib.ExitStack
) -> NodeEnd:
    """Be the node of rank 0 until its workers have ended; its sidecar stays up for the others."""
    try:
        attempt = meet(attempt, 0, lambda: stop.signal)
    except RunLostError:
        raise
    except Exception as error:  # noqa: BLE001 - recorded; the attempt must still be ended
        print(f"node 0: {error}", flush=True)
        return NodeEnd(EXIT_FAILED)
    # First, so it is closed last: the sidecar may serve other nodes from the copy of the code.
    until_closed = stack.enter_context(contextlib.ExitStack())
    sidecar = allocation.make_sidecar(attempt, 0, stop)
    stack.enter_context(contextlib.closing(sidecar))
    return _run_share(attempt, 0, allocation.limits, stop, sidecar, until_closed=until_closed)


def _follow(attempt: Attempt, allocation: Allocation, stop: StopRequest) -> int:
    node_rank = allocation.node_rank
    attempt = meet(attempt, node_rank, lambda: stop.signal)
    sidecar = allocation.make_sidecar(attempt, node_rank, stop)
    with contextlib.ExitStack() as until_closed, contextlib.closing(sidecar):
        end = _run_share(
            attempt, node_rank, allocation.limits, stop, sidecar, until_closed=until_closed
        )
        end.write(attempt.run, attempt.number, node_rank)
        if end.exit_code == 0:
            sidecar.await_others()
    if end.exit_code in (0, EXIT_INTERRUPTED):
        return 0
    await_save(attempt)  # the scheduler ends the other nodes when this process ends
    return EXIT_FAILED


def _run_share(
    attempt: Attempt,
    node_rank: int,
    limits: Limits,
    stop: StopRequest,
    sidecar: Sidecar,
    *,
    until_closed: contextlib.ExitStack,
) -> NodeEnd:
    warning_seconds = max(limits.warning_seconds - MARGIN_SECONDS, limits.grace_seconds)
    try:
        sidecar.start()
        code = run_node(
            *(attempt, node_rank, limits.grace_seconds, stop),
            warning_seconds=warning_seconds,
            until_closed=until_closed,
        )
        sidecar.check(code)
    except NodeLostError as loss:
        print(f"node {node_rank}: {loss}", flush=True)
        return NodeEnd(-SIGKILL, f"node {node_rank}: {loss}")
    except RunLostError:
        raise
    except Exception as error:  # noqa: BLE001 - recorded; the other nodes must still learn of it
        print(f"node {node_rank}: {error!r}", flush=True)
        return NodeEnd(EXIT_FAILED)
    return NodeEnd(code)


def _gather_ends(
    attempt: Attempt, own: NodeEnd, limits: Limits, stop: StopRequest
) -> list[NodeEnd | None]:
    """Return how each node ended, in the order of ranks; None for a node that has gone silent.

    When a node fails, its exit ends the others, so it does not wait for them. But if the only known
    error is a consequence of another node's failure, that node gets a moment to write its own.
    """
    others = range(1, Plan.of(attempt.run).topology.num_nodes)
    patience_seconds = limits.grace_seconds + SAVE_LIMIT_SECONDS + MARGIN_SECONDS
    if own.exit_code == EXIT_FAILED or stop.signal is SIGTERM:
        patience_seconds = ECHO_SECONDS  # SLURM kills this process after KillWait, 30 s by default
    deadline = time.monotonic() + patience_seconds
    while True:
        ends = [own, *(NodeEnd.read(attempt.run, attempt.number, rank) for rank in others)]
        error = attempt.run.first_error(attempt.number)
        is_failed = any(end and end.exit_code == EXIT_FAILED for end in ends)
        if None not in ends or (is_failed and error is not None and not error.is_consequence):
            # Nodes that are still silent are being ended because another node has failed.
            return [end or NodeEnd(EXIT_FAILED) for end in ends]
        if own.exit_code == 0 and not stop.signal:
            # The workers of rank 0's node may finish long before the others.
            deadline = time.monotonic() + patience_seconds
        if time.monotonic() > deadline:
            return ends
        time.sleep(attempt.run.poll_seconds)


def _conclude(
    attempt: Attempt, ends: Sequence[NodeEnd | None], allocation: Allocation, stop: StopRequest
) -> int:
    run = attempt.run
    stopped_by = None
    error = run.first_error(attempt.number)
    is_clear = error and not error.is_consequence and error.type != WORKER_DIED
    if stop.signal and not Cancel.read(run) and not is_clear:
        # Only where it matters: the scheduler may kill this process before it answers.
        stopped_by = allocation.stop_cause(stop.signal)
    ending = judge(
        run, attempt.number, [end.exit_code if end else None for end in ends], stopped_by
    )
    if ending.state is JobState.FAILED and (loss := _first_loss(attempt, ends)):
        # The errors that the workers reported are consequences of the loss.
        ending = Ending(JobState.FAILED, Cause.NODE_FAILURE, loss)
    if ending.state is JobState.INTERRUPTED and stopped_by is Cause.STOP:
        # Only the scheduler knows whether this was a requeue or a cancellation, so it decides
        # what follows.
        end(attempt, replace(ending, goes_on=True))
        return 0
    ending = allow_another(run, ending)
    end(attempt, ending)
    if ending.goes_on:
        if (refusal := allocation.requeue()) is None:
            return 0
        if further := allocation.hand_over(run):
            reason = f"{ending.reason}; it could not be requeued: {refusal}; {further}"
            end(attempt, replace(ending, reason=reason, goes_on=False))
    # Also if another job continues the run: jobs that wait for this one's success must not start.
    return 0 if ending.state is JobState.SUCCEEDED else EXIT_FAILED


def _first_loss(attempt: Attempt, ends: Sequence[NodeEnd | None]) -> str | None:
    # Read again: a node that was silent a moment ago may have written by now.
    others = range(1, len(ends))
    now = [ends[0], *(NodeEnd.read(attempt.run, attempt.number, rank) for rank in others)]
    return next((end.lost for end in now if end and end.lost), None)
