"""The process of one node: it starts a worker for each device and ends them together.

The workers get the environment of torchrun (https://docs.pytorch.org/docs/stable/elastic/run.html),
which Lightning's ``TorchElasticEnvironment`` and any plain DDP script understand. The processes
are started here and not by torchrun, whose import alone costs a node 1.7 s of CPU before its
workers begin, and which exits on the signals that schedulers send to every process of a step.
"""

import argparse
import atexit
import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from getiaction_launch.errors import CheckError, StorageError, UnreachableError
from getiaction_launch.mirror.code import unpacked
from getiaction_launch.mirror.staging import Staging
from getiaction_launch.node.deaths import code_of, record_death
from getiaction_launch.node.environment import (
    process_defaults,
    trainer_defaults,
    worker_environment,
)
from getiaction_launch.node.guard import Guard, RunLostError
from getiaction_launch.node.head import NOT_STARTED
from getiaction_launch.node.network.meeting import meet
from getiaction_launch.node.nodes import SAVE_LIMIT_SECONDS
from getiaction_launch.node.outage import persist
from getiaction_launch.node.progress_file import VARIABLE as PROGRESS_VARIABLE
from getiaction_launch.node.progress_file import ProgressFile
from getiaction_launch.node.watching.watchdog import Watchdog
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import EXIT_FAILED, Attempt
from getiaction_launch.run.loggers import tracking_variables
from getiaction_launch.run.node_records import WorkerError
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import CODE_VARIABLE, Run
from getiaction_launch.run.state import EXIT_INTERRUPTED
from getiaction_launch.storage.rotation import LogLimit
from getiaction_launch.storage.times import LogTimes
from getiaction_launch.system.child import die_with_parent, start_child
from getiaction_launch.system.memory import count_oom_kills
from getiaction_launch.system.mpi import without_mpi
from getiaction_launch.system.orphans import RUN_VARIABLE, TOKEN_VARIABLE, kill_processes_of
from getiaction_launch.system.stop import StopRequest

POLL_SECONDS = 0.2
"""A signal and the end of a worker end the sleep; each look takes CPU from the workers."""
FAILURE_GRACE_SECONDS = 5
Workers = list["subprocess.Popen[bytes]"]


def run_node(
    attempt: Attempt,
    node_rank: int,
    grace_seconds: float,
    stop: StopRequest,
    *,
    warning_seconds: float = 0,
    working_directory: str | None = None,
    until_closed: contextlib.ExitStack | None = None,
) -> int:
    """Start this node's workers and watch them until all have ended.

    When one fails, the others get SIGTERM and, after ``grace_seconds``, SIGKILL; a checkpoint
    that is being saved may be finished. When ``stop`` is set, SIGTERM asks the workers to agree
    with all others on a step boundary, to save there and to exit.

    An exception, such as one that keeps the workers from starting, is recorded as the error of the
    node's first worker and then raised.

    Args:
        attempt: The attempt that the workers belong to; its run's ``plan.json`` says what to do.
        node_rank: Rank of this node, from 0.
        grace_seconds: How long the workers may take between SIGTERM and SIGKILL.
        stop: Set from outside when the workers must stop.
        warning_seconds: Replaces a shorter ``grace_seconds`` if a warning (SIGUSR2) set ``stop``.
        working_directory: Directory to start the workers in; the plan's by default. Ray gives each
            node a copy of it in another place.
        until_closed: Keeps the copy of the code on this node until the caller closes it; by
            default, the copy is removed when the workers have ended.

    Returns:
        0 if every worker succeeded, ``EXIT_INTERRUPTED`` if they were stopped, otherwise
        ``EXIT_FAILED``.

    Raises:
        RunLostError: If the run's directory was removed, or another job has taken the run over;
            the workers were killed then without saving.
    """
    run, plan = attempt.run, Plan.of(attempt.run)
    guard = Guard(run)
    try:
        staging = Staging(run, plan, attempt.number, node_rank, attempt.resume_from, stop)
        place = working_directory or plan.working_directory
        with staging, contextlib.ExitStack() as stack:
            copy = persist(
                run,
                "the copy of the code cannot be unpacked",
                lambda: (until_closed or stack).enter_context(unpacked(run, plan, place)),
                lambda: bool(stop.signal),
            )
            code = _run_workers(
                replace(attempt, resume_from=staging.resume_from),
                plan,
                node_rank,
                stop,
                guard,
                place=place,
                copy=copy,
                grace_seconds=grace_seconds,
                warning_seconds=warning_seconds,
            )
            loss = guard.confirm_loss()
            staging.is_lost, staging.is_removed = loss is not None, guard.is_removed
            staging.is_finished = code == 0
    except Exception as error:
        if not guard.confirm_loss():
            words = error if isinstance(error, StorageError) else f"{NOT_STARTED}: {error}"
            attempt.write_node_error(node_rank, type(error).__name__, str(words))
        raise
    if loss:
        guard.remove_leftovers()
        raise RunLostError(loss)
    return code


def _run_workers(
    attempt: Attempt,
    plan: Plan,
    node_rank: int,
    stop: StopRequest,
    guard: Guard,
    *,
    place: str,
    copy: Path | None,
    grace_seconds: float,
    warning_seconds: float,
) -> int:
    run = attempt.run
    oom_kills = count_oom_kills()
    workers = {}
    watchdog = Watchdog(attempt, node_rank, plan)
    beats = watchdog.beats
    given = {**os.environ, **plan.env_vars}
    told = ProgressFile(run.local, attempt.number, node_rank)
    trackers, defaults = tracking_variables(run, given), trainer_defaults(plan.topology, given)
    for local_rank in range(plan.topology.workers_per_node):
        variables = worker_environment(
            plan.topology, node_rank, local_rank, attempt.head, f"{run.name}/{attempt.number}"
        )
        rank = int(variables["RANK"])
        # Ranks that log separately must not write into one run of a tracker.
        variables |= defaults | (trackers if rank == 0 else {})
        variables[CODE_VARIABLE] = str(copy or "")
        if rank == 0:
            variables[PROGRESS_VARIABLE] = str(told.path)
        memory, files = beats.open(rank)
        workers[rank] = _start_worker(plan, attempt, variables | memory, place, files)
        beats.opened(rank, files[0], workers[rank].pid)
    paths = [run.local.log_directory(attempt.number) / f"rank_{rank}.log" for rank in workers]
    logs = LogLimit(paths, plan.log_limit_mb)
    # On remote storage, each segment of a log has a time.
    times = LogTimes(paths if run.local is run else [])
    alive = dict(workers)
    failed = False
    while alive and not (failed or stop.signal or guard.loss()):
        stop.wait(POLL_SECONDS)
        logs.keep()
        times.note()
        told.note()
        failed = watchdog.must_end(alive)
        for rank, worker in list(alive.items()):
            if worker.poll() is not None:
                del alive[rank]
                worker.returncode = code_of(attempt, rank, worker.returncode, beats)
                if worker.returncode in (-signal.SIGTERM, -signal.SIGHUP):
                    # A scheduler signals every process of a step; this one may get it a bit later.
                    _await_signal(stop)
                if worker.returncode not in (0, EXIT_INTERRUPTED) and not stop.signal:
                    failed = True
                    is_oom = count_oom_kills() > oom_kills
                    record_death(attempt, rank, node_rank, worker.returncode, is_oom=is_oom)
    watchdog.note_failure(_first_error(attempt), alive)
    was_warned = stop.signal is signal.SIGUSR2
    patience_seconds = max(grace_seconds, warning_seconds) if was_warned else grace_seconds
    if guard.confirm_loss():
        _kill(workers.values())  # what they would save, they would save for nobody
    else:
        _stop(attempt, list(workers.values()), patience_seconds, stop)
    kill_processes_of(str(run.local.directory), [attempt.token], GROUP_RANK=str(node_rank))
    watchdog.close()
    told.note(is_last=True)
    if failed:
        return EXIT_FAILED
    was_interrupted = any(worker.returncode == EXIT_INTERRUPTED for worker in workers.values())
    ended_well = all(worker.returncode == 0 for worker in workers.values())
    return EXIT_INTERRUPTED if was_interrupted or (stop.signal and not ended_well) else 0


def _await_signal(stop: StopRequest) -> None:
    deadline = time.monotonic() + 1
    while not stop.signal and time.monotonic() < deadline:
        stop.wait(POLL_SECONDS)


def _start_worker(
    plan: Plan,
    attempt: Attempt,
    variables: dict[str, str],
    working_directory: str,
    files: Collection[int],
) -> "subprocess.Popen[bytes]":
    local = attempt.run.local
    directory = str(local.directory)
    resume = {"GETIACTION_LAUNCH_RESUME_FROM": attempt.resume_from} if attempt.resume_from else {}
    log_path = local.log_directory(attempt.number) / f"rank_{variables['RANK']}.log"
    return start_child(
        [sys.executable, "-u", "-m", "getiaction_launch.worker.worker", directory],
        log_path,
        {
            **process_defaults(plan.topology.workers_per_node),
            **attempt.network_variables,
            **without_mpi(os.environ),
            **plan.env_vars,
            **variables,
            **resume,
            RUN_VARIABLE: directory,
            TOKEN_VARIABLE: attempt.token,
            "GETIACTION_LAUNCH_RUN": str(attempt.run.directory),
            "GETIACTION_LAUNCH_ATTEMPT": str(attempt.number),
        },
        working_directory=working_directory,
        # Signals of a terminal must reach only this process, which passes them on; and as one
        # process group, a worker can be killed together with its loader workers.
        own_session=True,
        # SLURM sends its warning to every process of a step, but only this one must get it.
        blocked={signal.SIGUSR2},
        files=files,
    )


def _stop(attempt: Attempt, workers: Workers, grace_seconds: float, stop: StopRequest) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    started_at = time.monotonic()
    while any(worker.poll() is None for worker in workers):
        waited_seconds = time.monotonic() - started_at
        # After a rank has failed, the others cannot reach a common step boundary any more.
        is_hopeless = waited_seconds >= FAILURE_GRACE_SECONDS and _has_failed(attempt)
        if waited_seconds >= max(grace_seconds, SAVE_LIMIT_SECONDS):
            break
        is_late = waited_seconds >= grace_seconds or is_hopeless
        if is_late and not _is_saving(attempt.run.local, attempt.number):
            break
        stop.wait(POLL_SECONDS)
    _kill(workers)


def _kill(workers: Iterable["subprocess.Popen[bytes]"]) -> None:
    for worker in workers:
        # The whole group, even if the worker has exited: its loader workers may still run.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def _has_failed(attempt: Attempt) -> bool:
    error = _first_error(attempt)
    return error is not None and not error.is_consequence


def _first_error(attempt: Attempt) -> WorkerError | None:
    try:
        # For a run on remote storage this finds only the errors of this node's workers.
        return attempt.run.local.first_error(attempt.number)
    except (OSError, ValueError):
        return None


def await_save(attempt: Attempt) -> None:
    """Wait until no node is saving a checkpoint, for at most :data:`SAVE_LIMIT_SECONDS`."""
    deadline = time.monotonic() + SAVE_LIMIT_SECONDS
    while _is_saving(attempt.run, attempt.number) and time.monotonic() < deadline:
        time.sleep(attempt.run.poll_seconds)


def _is_saving(run: Run, number: int) -> bool:
    """Whether rank 0 is saving a checkpoint, or writes one in the background."""
    try:
        progress = Progress.read(run) or Progress()
        # A worker that died while it was saving still reports that it is saving.
        has_died = (run.log_directory(number) / "error_rank_0.json").exists()
    except (OSError, ValueError):
        return False
    return progress.is_saving and not has_died


def main() -> int:
    """Entry of ``python -m getiaction_launch.node.node``, as a job process writes it."""
    parser = argparse.ArgumentParser(
        prog="python -m getiaction_launch.node.node", description="Run one node of an attempt."
    )
    parser.add_argument("run")
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--grace-seconds", type=float, default=5)
    parser.add_argument("--working-directory")
    arguments = parser.parse_args()
    atexit.register(gc.freeze)  # a search for garbage would delay the end of the attempt
    stop = StopRequest()
    die_with_parent()
    attempt = Attempt.read(Run.at(arguments.run), arguments.attempt)
    try:
        return run_node(
            meet(attempt, arguments.node_rank, lambda: stop.signal),
            arguments.node_rank,
            arguments.grace_seconds,
            stop,
            working_directory=arguments.working_directory,
        )
    except RunLostError as loss:
        sys.stderr.write(f"node {arguments.node_rank}: ended, because {loss}\n")
    except (UnreachableError, CheckError) as error:  # recorded as the error of a worker
        sys.stderr.write(f"node {arguments.node_rank}: {error}\n")
    finally:
        # Beware: an interpreter that ends resets handlers. If another node fails at the same time,
        # the signal that ends the others would kill this one, which would count as lost.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
