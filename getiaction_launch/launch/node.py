"""One node of a run inside the user's own job or batch script: the verb ``node``.

Every task of a scheduler's step calls the same function; the one of rank 0 creates the run or takes
it over, and the others wait until they see that.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from getiaction_launch.backends.backend import Backend, check_installed, former_jobs
from getiaction_launch.errors import CheckError, UsageError
from getiaction_launch.launch.freezing.freeze import freeze, freeze_again
from getiaction_launch.launch.resuming.resume import check_resumable, keep_plan
from getiaction_launch.launch.status import backend_of
from getiaction_launch.launch.trust import check_owner
from getiaction_launch.node.allocation import Allocation
from getiaction_launch.node.joining import join
from getiaction_launch.node.opening import JOIN_SECONDS
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.restart import reopen
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, open_path
from getiaction_launch.storage.probe import make_root

T = TypeVar("T")
JOIN_POLL_SECONDS = 0.5


def start_here(plan: Plan, backend: Backend) -> int:
    """Train ``plan`` in the job that this process is a node of; returns the exit code.

    After a requeue, the run of this step exists already and continues.

    Raises:
        UsageError: If this process is not one node of a job that fits the plan.
        CheckError: If the other nodes do not see the run.
    """
    check_installed(backend)
    allocation = _allocation(backend, plan)

    def find() -> Run | None:
        for directory in children(open_path(plan.root) / plan.name):
            run = Run(directory)
            with contextlib.suppress(OSError, ValueError):  # another run's damage
                if _is_own(run, allocation) and run.read("plan"):
                    return run
        return None

    run = find()
    if run is None and allocation.node_rank == 0:
        make_root(plan.root)
        frozen = freeze([plan])[0]
        run = Run.claim(plan.root, plan.name)
        allocation.record().write(run)
        run.write("plan", frozen.to_json())  # last: from here on the other nodes find it
    if run is None:
        run = _await(
            find,
            f"node {allocation.node_rank} does not see the run that node 0 has created under "
            f"{plan.root}.",
            "Name a directory that all nodes share: --trainer.default_root_dir=PATH",
        )
    return join(run, allocation)


def continue_here(
    run: Run, fallback: Callable[[], Backend], *, trust: bool = False, is_code_now: bool = False
) -> int:
    """Continue a run in the job that this process is a node of; returns the exit code.

    Args:
        run: A run of this job, or one that ended before its training was finished.
        fallback: Makes the backend for a run that was not submitted to a scheduler before.
        trust: Whether to run what another user's records say; without it, that is refused.
        is_code_now: Whether to train the user's files as they are now, and not the copy of them
            that was made at submission.

    Raises:
        UsageError: If this process is not one node of a job that fits the run's plan.
        CheckError: If the run has finished, may still run or belongs to another user, or node 0
            does not take it over.
    """
    if not trust:
        check_owner(run, "node")
    plan, record = Plan.of(run), JobRecord.read(run)
    earlier = backend_of(run, record).allocation(plan) if record else None
    allocation = earlier or _allocation(fallback(), plan)
    if not _is_own(run, allocation):
        if allocation.node_rank == 0:
            check_resumable(run)
            if is_code_now:
                keep_plan(run)
                run.write("plan", freeze_again(run, plan).to_json())
            reopen(run)
            replace(
                allocation.record(),
                previous_job_ids=[job for job in former_jobs(run) if job != allocation.job_id],
            ).write(run)
        else:
            _await(
                lambda: _is_own(run, allocation),
                f"node 0 has not continued run {run.name}.",
                "Its output, in the scheduler's log of this job, says why.",
            )
    return join(run, allocation)


def _allocation(backend: Backend, plan: Plan) -> Allocation:
    allocation = backend.allocation(plan)
    if allocation is None:
        raise UsageError(
            "`getiaction-launch node` must run inside a scheduler's job, and "
            f"{type(backend).__name__} has none.",
            "--cluster slurm   or   --cluster ray-on-slurm",
        )
    return allocation


def _is_own(run: Run, allocation: Allocation) -> bool:
    record = JobRecord.read(run)
    return record is not None and allocation.owns(record)


def _await(look: Callable[[], T | None], what: str, fix: str = "") -> T:
    """Wait until ``look`` returns something true, and return that.

    Args:
        look: Called until its result is true.
        what: The error message if that takes too long.
        fix: The fix in the error message.

    Raises:
        CheckError: If that takes longer than a node may take to join.
    """
    deadline = time.monotonic() + JOIN_SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            raise CheckError(what, fix)
        time.sleep(JOIN_POLL_SECONDS)
    return found
