"""Prepare, submit, watch and cancel runs: the interface of the command line and scripts."""

import sys
import time
from collections.abc import Sequence

from getiaction_launch.backends.backend import Backend
from getiaction_launch.errors import LaunchError, SpecError, disk_errors
from getiaction_launch.launch.check import check, check_place, check_points, inspect
from getiaction_launch.launch.prepare import prepare, trace
from getiaction_launch.launch.status import (
    RunStatus,
    Watched,
    attach,
    read_status,
    read_statuses,
    wait,
    wait_for,
)
from getiaction_launch.launch.trust import check_owner
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import parse
from getiaction_launch.run.records import STARTING
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import is_remote
from getiaction_launch.storage.probe import make_root

__all__ = [
    "RunStatus",
    "attach",
    "cancel",
    "check",
    "prepare",
    "read_status",
    "read_statuses",
    "submit",
    "submit_sweep",
    "trace",
    "wait",
    "wait_for",
]

POLL_SECONDS = 0.25
"""How often to look whether a run that starts at once trains: a look takes CPU from its workers."""
SETUP_SECONDS = 5
"""How long to wait for a run that has begun to set up its data."""


@disk_errors()
def submit(plan: Plan, backend: Backend, *, is_checked: bool = True) -> Run:
    """Check ``plan``, claim its run directory and start it.

    Before a job is submitted to a queue, the spec is built and the script is read. A run that
    starts at once is judged by its own workers, and this returns when they train.

    Args:
        plan: The plan of the run.
        backend: The backend that starts it.
        is_checked: Whether to build the spec or to read the script before it waits in a queue.

    Raises:
        LaunchError: If the plan cannot be carried out. No run directory is left behind then, nor
            after Ctrl-C.
    """
    is_judged = _judge(plan, backend, is_checked=is_checked)
    (run,) = start([plan], backend, None)
    try:
        if plan.arguments and not is_judged:
            _await_verdict(run, plan, backend)
    except (LaunchError, KeyboardInterrupt):
        _take_back([run])
        raise
    return run


@disk_errors()
def submit_sweep(
    plans: Sequence[Plan], backend: Backend, max_parallel: int | None, *, is_checked: bool = True
) -> list[Run]:
    """Check every point of a sweep, claim a run directory for each and start them.

    Args:
        plans: The plans of all points, one for each.
        backend: The backend that starts the runs.
        max_parallel: How many of the runs may run at the same time. None for the backend's own
            default: one on this machine, all of them on SLURM.
        is_checked: Whether to build the first spec or to read the script before it waits in a
            queue.

    Raises:
        LaunchError: If one of the plans cannot be carried out; then no run is started.
    """
    is_judged = _judge(plans[0], backend, is_checked=is_checked)
    check_points(plans, backend)
    runs = start(plans, backend, max_parallel)
    try:
        if plans[0].arguments and not is_judged:
            _await_verdict(runs[0], plans[0], backend)
    except (LaunchError, KeyboardInterrupt):
        _take_back(runs)
        raise
    return runs


def _judge(plan: Plan, backend: Backend, *, is_checked: bool) -> bool:
    """Check a plan before it is submitted; return whether its spec was judged here."""
    if not (backend.has_queue and is_checked):
        check_place(plan, backend)
        return False
    report = inspect(plan, backend)
    report.raise_first()
    for finding in report.doubts:
        sys.stderr.write(f"warning: {finding.evidence}\n{finding.fix}\n")
    return True


def start(plans: Sequence[Plan], backend: Backend, max_parallel: int | None) -> list[Run]:
    """Claim a run directory for each plan and start them; nothing of the plans is checked.

    Args:
        plans: The plans of a run, or of all points of a sweep.
        backend: The backend that starts the runs.
        max_parallel: How many of the runs may run at the same time; None for the backend's own
            default.

    Raises:
        LaunchError: If the runs cannot be started. No run directory is left behind then.
    """
    from getiaction_launch.launch.freezing.freeze import freeze  # slow to import

    runs: list[Run] = []
    try:
        for plan in freeze(plans):
            make_root(plan.root)
            runs.append(Run.claim(plan.root, plan.name, runs[-1] if runs else None))
            runs[-1].write("plan", plan.to_json())
        backend.submit(runs, max_parallel)
    except (LaunchError, OSError, KeyboardInterrupt):
        _take_back(runs)
        raise
    return runs


def _take_back(runs: Sequence[Run]) -> None:
    for run in runs:
        if error := _cancel_error(run):
            # If the job still starts, it needs the plan in this directory.
            sys.stderr.write(f"{run.directory} is kept, as its job may still start: {error}\n")
        else:
            run.discard()


def _cancel_error(run: Run) -> LaunchError | None:
    try:
        cancel(run)
    except LaunchError as error:
        return error
    return None


def _await_verdict(run: Run, plan: Plan, backend: Backend) -> None:
    """Wait until a run that starts at once trains, or has failed before that.

    A run that waits in a queue has its spec parsed here instead.
    """
    submitted_at = time.monotonic()
    parsed_at: float | None = None
    watched = Watched(run)
    while True:
        status = watched.read_status()
        state, progress = status.state, status.progress
        if progress.phase not in (None, STARTING):
            return
        if state.is_over:
            error = run.first_error(0)
            if error and error.type == SpecError.__name__:
                raise SpecError(*error.message.split("\n", 1))
            return
        now = time.monotonic()
        if progress.reported:
            # The spec is right; its data may still be missing.
            parsed_at = parsed_at or now
            if now - parsed_at > SETUP_SECONDS:
                return
        is_late = now - submitted_at > backend.start_seconds or status.is_queued
        if is_late and state is JobState.PENDING and not status.attempts:
            parse(plan.arguments)
            return
        time.sleep(run.poll_seconds if is_remote(run.directory) else POLL_SECONDS)


@disk_errors()
def cancel(run: Run, *, trust: bool = False) -> RunStatus:
    """End a run on all its nodes; returns once every process has stopped.

    Args:
        run: The run to end.
        trust: Whether to end the job that another user's records name; without it, that is refused.

    Raises:
        CheckError: If the run belongs to another user.
        UnreachableError: If the run cannot be reached from here.
    """
    if not trust:
        check_owner(run, "cancel")
    if job := attach(run):
        job.cancel()
    return read_status(run)
