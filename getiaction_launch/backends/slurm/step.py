"""Inside a SLURM step: each task is one node of the run; that of rank 0 keeps the records.

``run_task`` is what submitit starts, ``run_step`` what ``srun getiaction-launch node`` does in a
batch script of the user's own. SLURM's warning before a time limit (SIGUSR2) and its SIGTERM
(preemption, requeue, scancel) end the attempt at a step boundary; then the launcher requeues the
job, and nobody else: not Lightning, not submitit.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR2
from typing import Any

from getiaction_launch.backends.slurm.allocation import (
    address,
    check_geometry,
    job_id,
    share_cpus,
    step_id,
    step_key,
)
from getiaction_launch.backends.slurm.company import Company, MakeCompany, NodeLostError
from getiaction_launch.backends.slurm.successor import submit_successor
from getiaction_launch.errors import CheckError
from getiaction_launch.mirror.staging import salvage
from getiaction_launch.node.node import (
    SAVE_LIMIT_SECONDS,
    await_save,
    run_node_or_tell,
)
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import (
    EXIT_FAILED,
    Attempt,
    Ending,
    allow_another,
    judge,
    may_begin,
    read_attempts,
    reopen,
    reserve_port,
)
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED, Cause, JobState
from getiaction_launch.storage.paths import children, open_path, read_json, write_json
from getiaction_launch.storage.probe import make_root
from getiaction_launch.system.stop import StopRequest

DEFAULTS = {"grace_seconds": 20, "warning_seconds": 120}
JOIN_SECONDS = 120
JOIN_POLL_SECONDS = 0.5
ECHO_SECONDS = 5
COMMAND_SECONDS = 60
MARGIN_SECONDS = 15


def run_task(directory: str, company: MakeCompany) -> None:
    """What submitit starts on every node.

    Args:
        directory: The run's.
        company: What to run beside the workers.

    Raises:
        SystemExit: With the exit code of :func:`run_step`, unless that is 0.
    """
    # submitit would write an exception, but nothing else, into its result pickle.
    if code := run_step(Run.at(directory), company):
        raise SystemExit(code)


def run_step(run: Run, company: MakeCompany) -> int:
    """Be one node of one attempt; on that of rank 0, also open, judge and end the attempt.

    Args:
        run: Whose.
        company: What to run beside the workers.

    Returns:
        0 if this node ended well or the run goes on in another attempt, else ``EXIT_FAILED``:
        with ``--kill-on-bad-exit`` srun then ends the other nodes.

    Raises:
        UsageError: If this is no step of SLURM, or one whose geometry is not the plan's.
    """
    stop = StopRequest()  # from here on submitit's handlers are gone
    node_rank = check_geometry(Plan.of(run))
    if run.read("done"):
        return 0  # the job was requeued after its end, or for a later step
    job = run.read("job") or {}
    if job_id() in job.get("previous_job_ids", ()):
        return 0  # its successor has the run
    share_cpus(Plan.of(run))
    key = step_key()
    settings = {**DEFAULTS, **(job.get("backend") or {}).get("init_args", {})}
    if node_rank > 0:
        attempt = Attempt.join(run, key, JOIN_SECONDS, lambda: stop.signal)
        with contextlib.closing(company(attempt, node_rank, stop)) as beside:
            code = _run_share(attempt, node_rank, settings, stop, beside)
            write_json(_node_record(attempt, node_rank), {"exit_code": code})
            if code == 0:
                beside.await_others()
        if code in (0, EXIT_INTERRUPTED):
            return 0
        await_save(attempt)  # srun ends the others when this process ends
        return EXIT_FAILED
    if not may_begin(run):
        print(f"run {run.name} has ended and is not started again", flush=True)
        return EXIT_FAILED
    port, claim = reserve_port()
    with claim:
        salvage(run, len(read_attempts(run)))
        attempt = Attempt.begin(run, key, address(), port)
        patience_seconds = settings["grace_seconds"] + SAVE_LIMIT_SECONDS + MARGIN_SECONDS
        with contextlib.closing(company(attempt, node_rank, stop)) as beside:
            code = _run_share(attempt, node_rank, settings, stop, beside)
            exit_codes = _gather_exit_codes(attempt, code, stop, patience_seconds)
    return _conclude(attempt, exit_codes, stop)


def _conclude(attempt: Attempt, exit_codes: Sequence[int | None], stop: StopRequest) -> int:
    run = attempt.run
    stopped_by = _stop_cause(run, stop) if stop.signal else None
    ending = judge(run, attempt.number, exit_codes, stopped_by)
    if ending.state is JobState.FAILED and (loss := read_json(_loss_record(attempt))):
        # What workers said of it is an echo.
        ending = Ending(JobState.FAILED, Cause.NODE_FAILURE, loss["reason"])
    if ending.state is JobState.INTERRUPTED and stopped_by is Cause.STOP:
        # Only SLURM knows whether this was a requeue or an scancel, and does accordingly.
        attempt.end(replace(ending, goes_on=True))
        return 0
    ending = allow_another(run, ending)
    attempt.end(ending)
    if ending.goes_on:
        if _requeue():
            return 0
        if refusal := _submit_successor(run):
            reason = f"{ending.reason}; it could not be requeued: {refusal}"
            attempt.end(replace(ending, reason=reason, goes_on=False))
    # Also where a successor goes on: what waits for this job's success must not start.
    return 0 if ending.state is JobState.SUCCEEDED else EXIT_FAILED


def claim_run(plan: Plan, backend: Mapping[str, Any]) -> Run:
    """Claim the run of this job step on its node of rank 0; find it on the others.

    After a requeue the step's run is there already, and goes on.

    Args:
        plan: What to train.
        backend: What ``job.json`` says of it, for what comes after this job.

    Raises:
        UsageError: If this is no step of SLURM.
        CheckError: If the other nodes do not see it.
    """
    node_rank = check_geometry(plan)
    deadline = time.monotonic() + JOIN_SECONDS
    while True:
        for directory in children(open_path(plan.root) / plan.name):
            run = Run(directory)
            with contextlib.suppress(OSError, ValueError):  # another run's damage
                if is_own(run) and run.read("plan"):
                    return run
        if node_rank == 0:
            make_root(plan.root)
            run = Run.claim(plan.root, plan.name)
            _write_job(run, backend)
            run.write("plan", plan.to_json())  # last: from here on the others find it
            return run
        if time.monotonic() > deadline:
            raise CheckError(
                f"node {node_rank} does not see the run that node 0 has made under {plan.root}.",
                "Name a directory that all nodes share: --trainer.default_root_dir=PATH",
            )
        time.sleep(JOIN_POLL_SECONDS)


def is_own(run: Run) -> bool:
    """Whether the run was started by this very step, or by this job as a whole."""
    job = run.read("job") or {}
    is_here = job.get("cluster") in (None, os.environ.get("SLURM_CLUSTER_NAME"))
    is_step = job.get("step_id") in (None, step_id())
    return job.get("job_id") == job_id() and is_here and is_step


def take_over(run: Run, backend: Mapping[str, Any]) -> None:
    """Go on here with a run that another job has left; the other nodes of the step wait for that.

    Args:
        run: Which.
        backend: As for :func:`claim_run`.

    Raises:
        CheckError: If the node of rank 0 does not do so.
    """
    if check_geometry(Plan.of(run)) == 0:
        reopen(run)
        _write_job(run, backend)
        return
    deadline = time.monotonic() + JOIN_SECONDS
    while not is_own(run):
        if time.monotonic() > deadline:
            raise CheckError(f"node 0 does not go on with run {run.name}; see what it says.")
        time.sleep(JOIN_POLL_SECONDS)


def _write_job(run: Run, backend: Mapping[str, Any]) -> None:
    run.write(
        "job",
        {
            "backend": dict(backend),
            "cluster": os.environ.get("SLURM_CLUSTER_NAME"),
            "job_id": job_id(),
            "step_id": step_id(),
            "submitted_at": time.time(),
        },
    )


def _run_share(
    attempt: Attempt,
    node_rank: int,
    settings: Mapping[str, Any],
    stop: StopRequest,
    company: Company,
) -> int:
    warning_seconds = max(settings["warning_seconds"] - MARGIN_SECONDS, settings["grace_seconds"])
    try:
        company.start()
        code = run_node_or_tell(
            attempt, node_rank, settings["grace_seconds"], stop, warning_seconds=warning_seconds
        )
        company.check(code)
    except NodeLostError as loss:
        print(f"node {node_rank}: {loss}", flush=True)
        write_json(_loss_record(attempt), {"reason": f"node {node_rank}: {loss}"})
        return -SIGKILL
    except Exception as error:  # noqa: BLE001 - recorded; the other nodes must still be told
        print(f"node {node_rank}: {error!r}", flush=True)
        return EXIT_FAILED
    return code


def _loss_record(attempt: Attempt) -> Path:
    return attempt.run.log_directory(attempt.number) / "node_lost.json"


def _node_record(attempt: Attempt, node_rank: int) -> Path:
    return attempt.run.log_directory(attempt.number) / f"node_{node_rank}.json"


def _gather_exit_codes(
    attempt: Attempt, own: int, stop: StopRequest, patience_seconds: float
) -> list[int | None]:
    """Every node's exit code, this one's first; None for a node that has gone silent.

    A node that has failed ends the others by its exit, so it does not wait for them; but where all
    that is known is an echo of somebody else's failure, that one is given a moment to speak.
    """
    others = range(1, Plan.of(attempt.run).topology.num_nodes)
    if own == EXIT_FAILED or stop.signal is SIGTERM:  # SLURM gives no more time than KillWait
        patience_seconds = ECHO_SECONDS
    deadline = time.monotonic() + patience_seconds
    while True:
        records = [read_json(_node_record(attempt, rank)) for rank in others]
        told = [record["exit_code"] if record else None for record in records]
        error = attempt.run.first_error(attempt.number)
        is_failed = EXIT_FAILED in [own, *told]
        if None not in told or (is_failed and error is not None and not error.is_consequence):
            # Whoever is silent is being ended for the failure of another.
            return [own, *(EXIT_FAILED if code is None else code for code in told)]
        if own == 0 and not stop.signal:
            # Rank 0 may end long before the others.
            deadline = time.monotonic() + patience_seconds
        if time.monotonic() > deadline:
            return [own, *told]
        time.sleep(attempt.run.poll_seconds)


def _stop_cause(run: Run, stop: StopRequest) -> Cause | None:
    """Why SLURM has signalled this step; None if srun did, because another task has ended."""
    if run.read("cancel"):
        return Cause.CANCEL
    said = _scontrol("show", "job", os.environ["SLURM_JOB_ID"])[1]
    print(*re.findall(r"(?:JobState|Reason|PreemptTime)=\S+", said), flush=True)
    if re.search(r"PreemptTime=\d", said):
        return Cause.PREEMPTION
    if "Reason=TimeLimit" in said:
        return Cause.TIME_LIMIT
    # SLURM ends a job whose node is down, and tells that nowhere else without accounting.
    nodes = _scontrol("--oneliner", "show", "node", os.environ["SLURM_JOB_NODELIST"])[1]
    if re.search(r"\bState=DOWN", nodes):
        return Cause.NODE_FAILURE
    state = re.search(r"JobState=(\w+)", said)
    if stop.signal is SIGUSR2 and (state is None or state[1] == "RUNNING"):
        return Cause.TIME_LIMIT  # else an scancel or a requeue has come after the warning
    return None if state and state[1] == "RUNNING" else Cause.STOP


def _requeue() -> bool:
    code, said = _scontrol("requeue", job_id())
    return code == 0 or "pending" in said.lower()  # SLURM itself may have been faster


def _submit_successor(run: Run) -> str:
    """Have another job follow this one; returns why not, where that is refused.

    For compute nodes without ``scontrol``, and sites that forbid requeues.
    """
    try:
        submit_successor(run, job_id())
    except Exception as error:  # noqa: BLE001 - whatever it was, the run must say it
        return f"neither by scontrol nor by another job: {error}"
    return ""


def _scontrol(*words: str) -> tuple[int, str]:
    try:
        result = subprocess.run(
            ["scontrol", *words],  # noqa: S607 - found as the user's shell finds it
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    return result.returncode, result.stdout + result.stderr
