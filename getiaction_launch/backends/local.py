"""Local: nodes are shares of this machine, and the job is a process that outlives its shell.

The command that submits starts one detached job process, which says in ``job.json`` how to find it,
starts a node process for each node (:mod:`getiaction_launch.node`), waits for them, writes how it
went into ``attempt_N.json``, and starts another attempt where the run's budgets allow one. Status
and cancel work from any other shell by what stands there.
"""

import contextlib
import errno
import itertools
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from getiaction_launch.attempt import (
    Attempt,
    Ending,
    allow_another,
    judge,
    may_begin,
    reserve_port,
)
from getiaction_launch.backend import Job, JobStatus
from getiaction_launch.errors import CheckError, UnreachableError
from getiaction_launch.gpu import visible_gpus
from getiaction_launch.node import (
    POLL_SECONDS,
    RUN_VARIABLE,
    StopRequest,
    available_cpus,
    kill_processes_of,
    node_command,
)
from getiaction_launch.plan import Plan
from getiaction_launch.run import Run
from getiaction_launch.state import Cause, JobState

ADDRESS = "127.0.0.1"
CANCEL_MARGIN_SECONDS = 15
SLOT_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class LocalBackend:
    """Trains on this machine, which its nodes share.

    Args:
        grace_seconds: How long workers may take to end after SIGTERM before they are killed.
    """

    grace_seconds: float = 5

    def __post_init__(self) -> None:
        if self.grace_seconds < 0:
            raise ValueError(f"grace_seconds={self.grace_seconds} is no time: 0 or more")

    def free_gpus(self, num_nodes: int) -> int | None:
        """This machine's GPUs, shared out evenly.

        Raises:
            CheckError: If there are some, but not one for each node.
        """
        have = len(visible_gpus())
        if 0 < have < num_nodes:
            raise CheckError(
                f"{num_nodes} nodes cannot share this machine's {have} GPUs.",
                f"--nodes {have}, or train on CPU: --gpus-per-node 0",
            )
        return have // num_nodes

    def check(self, plan: Plan) -> None:
        """Raise CheckError if this machine has too few GPUs."""
        wanted = plan.topology.num_nodes * plan.topology.gpus_per_node
        have = len(visible_gpus())
        if wanted > have:
            raise CheckError(
                f"the plan wants {plan.topology.num_nodes} nodes x {plan.topology.gpus_per_node} "
                f"GPUs = {wanted} GPUs, but this machine shows {have}.",
                "Ask for fewer (--nodes, --gpus-per-node) or train on CPU: "
                "--trainer.accelerator=cpu",
            )

    def describe(self, plan: Plan) -> list[str]:
        """The command of each node."""
        directory = f"{plan.root}/{plan.name}/version_N"
        commands = []
        for rank in range(plan.topology.num_nodes):
            variables = _node_variables(plan, rank)
            words = [f"{k}={v}" for k, v in variables.items()]
            words += node_command(directory, 0, rank, self.grace_seconds)
            commands.append(shlex.join(words))
        return commands

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Start a job process for each run, in sessions of their own: they survive this shell.

        Raises:
            CheckError: If one ends before it has said how to find it.
        """
        for run in runs:
            self._start_job(run, max_parallel or 1)

    def _start_job(self, run: Run, max_parallel: int) -> None:
        log_path = run.log_directory(0) / "job.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        words = [str(run.directory), str(self.grace_seconds), str(max_parallel)]
        # A run that a worker of another run submits is not that run's.
        inherited = {k: v for k, v in os.environ.items() if k != RUN_VARIABLE}
        before = run.read("job")
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "getiaction_launch.backends.local", *words],
                env=inherited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while (record := run.read("job")) == before and process.poll() is None:
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            process.kill()  # nobody could find it any more
            raise
        if record == before:
            words_said = _last_line(log_path)
            raise CheckError(f"the job of run {run.name} could not start: {words_said}")

    def attach(self, run: Run, record: dict[str, Any]) -> Job:
        """Find a job that any shell on this machine submitted."""
        return LocalJob(run, record)


@dataclass(frozen=True)
class LocalJob:
    """A job process on this machine."""

    run: Run
    record: dict[str, Any]

    def status(self) -> JobStatus:
        """Ask the process table."""
        process = self.record["process"]
        if process["host"] != socket.gethostname():
            return JobStatus(
                JobState.UNKNOWN, f"it was started on {process['host']}; ask on that machine"
            )
        if _start_time(process["pid"]) == process["started_after_boot_seconds"]:
            has_begun = self.run.read("attempt_0") is not None
            return JobStatus(JobState.RUNNING if has_begun else JobState.PENDING)
        if self.run.read("cancel"):
            return JobStatus(JobState.CANCELLED, "cancelled by its user", Cause.CANCEL)
        words = _last_line(self.run.log_directory(0) / "job.log")
        reason = "its job process was killed or the machine restarted"
        reason = f"{reason}: {words}" if words else reason
        return JobStatus(JobState.FAILED, reason, Cause.NODE_FAILURE)

    def cancel(self) -> None:
        """End the job process and, with it, every process that works for the run.

        Raises:
            UnreachableError: If the job is another machine's or another user's, or does not end.
        """
        status = self.status()
        if status.state is JobState.UNKNOWN:
            raise UnreachableError(
                f"run {self.run.name} cannot be cancelled from here: {status.reason}.",
                f"ssh {self.record['process']['host']} getiaction-launch cancel "
                f"{self.run.directory}",
            )
        if not status.state.is_over:
            self._stop()
        kill_processes_of(self.run)

    def _stop(self) -> None:
        pid: int = self.record["process"]["pid"]
        try:
            os.kill(pid, 0)
            self.run.write("cancel", {"requested_at": time.time()})
        except PermissionError as error:
            raise UnreachableError(
                f"run {self.run.name} belongs to another user.", "Only they can cancel it."
            ) from error
        except ProcessLookupError:
            return
        grace_seconds: float = self.record["backend"]["init_args"]["grace_seconds"]
        # Nodes and workers are bound to die with it (getiaction_launch.parent).
        for signum, patience_seconds in (
            (signal.SIGTERM, grace_seconds + CANCEL_MARGIN_SECONDS),
            (signal.SIGKILL, CANCEL_MARGIN_SECONDS),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
            deadline = time.monotonic() + patience_seconds
            while time.monotonic() < deadline:
                if self.status().state.is_over:
                    return
                time.sleep(POLL_SECONDS)
        raise UnreachableError(
            f"the job process {pid} of run {self.run.name} does not end, not even by SIGKILL.",
            "It waits for the kernel, often for a disk that is gone: see `ps -o stat,wchan`.",
        )


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "")


def _node_variables(plan: Plan, node_rank: int) -> dict[str, str]:
    """What tells the nodes on one machine apart, and keeps them from crowding it."""
    threads = max(1, available_cpus() // plan.topology.world_size)
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    count = plan.topology.gpus_per_node
    share = visible_gpus()[node_rank * count : (node_rank + 1) * count]
    return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(share)}


def _start_time(pid: int) -> float | None:
    """When a process started, in seconds after the machine did; None if it is gone.

    Unlike the time of day, this does not move when the clock is set, so together with the pid it
    tells a process from a later one.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.NoSuchProcess:
        return None


def run_job(run: Run, grace_seconds: float, max_parallel: int) -> JobState:
    """Run attempts until the run has ended: all that the job process does."""
    stop = StopRequest()
    host = socket.gethostname()
    started = _start_time(os.getpid())
    run.write(
        "job",
        {
            "backend": {
                # Not __name__: this module runs as __main__.
                "class_path": "getiaction_launch.backends.local.LocalBackend",
                "init_args": {"grace_seconds": grace_seconds},
            },
            "job_id": f"{os.getpid()}@{host}",
            "process": {
                "host": host,
                "pid": os.getpid(),
                "started_after_boot_seconds": started,
            },
        },
    )
    plan = Plan.of(run)
    may_begin(run)  # ends an attempt whose job process was killed
    with contextlib.closing(_take_slot(plan, max_parallel, stop)):
        for number in itertools.count():
            if stop.signal:
                return JobState.INTERRUPTED
            ending = _run_attempt(plan, run, f"{os.getpid()}.{number}", grace_seconds, stop)
            if not ending.goes_on:
                return ending.state
    raise AssertionError("unreachable")


def _take_slot(plan: Plan, max_parallel: int, stop: StopRequest) -> socket.socket:
    """Wait until fewer than ``max_parallel`` points of the sweep run.

    A slot is a name in Linux's abstract namespace (unix(7)), which goes with its process.
    """
    # The name's unique end: such a socket's name has room for 107 bytes.
    group = plan.sweep.get("group", f"-{os.getpid()}").rpartition("-")[2]
    while not stop.signal:
        for slot in range(max_parallel):
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0getiaction-launch-{group}-{slot}")
            except OSError as error:
                claim.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return claim
        time.sleep(SLOT_POLL_SECONDS)
    return socket.socket(socket.AF_UNIX)


def _run_attempt(plan: Plan, run: Run, key: str, grace_seconds: float, stop: StopRequest) -> Ending:
    port, claim = reserve_port()
    with claim:
        attempt = Attempt.begin(run, key, ADDRESS, port)
        nodes = [
            _start_node(plan, attempt, rank, grace_seconds)
            for rank in range(plan.topology.num_nodes)
        ]
        exit_codes = [node.poll() for node in nodes]
        while not stop.signal and None in exit_codes and not any(exit_codes):
            time.sleep(POLL_SECONDS)
            exit_codes = [node.poll() for node in nodes]
        for node in nodes:
            if node.poll() is None:
                node.terminate()
        ended = [node.wait() for node in nodes]
    ending = judge(run, attempt.number, ended, Cause.STOP if stop.signal else None)
    ending = allow_another(run, ending)
    if ending.state is not JobState.SUCCEEDED:
        kill_processes_of(run)
    attempt.end(ending)
    return ending


def _start_node(
    plan: Plan, attempt: Attempt, rank: int, grace_seconds: float
) -> "subprocess.Popen[bytes]":
    directory = str(attempt.run.directory)
    log_path = attempt.run.log_directory(attempt.number) / f"node_{rank}.log"
    with log_path.open("ab") as log:
        return subprocess.Popen(
            node_command(directory, attempt.number, rank, grace_seconds),
            env={
                **os.environ,
                **_node_variables(plan, rank),
                "GETIACTION_LAUNCH_PARENT": str(os.getpid()),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def main() -> int:
    """Entry of the job process: ``python -m getiaction_launch.backends.local RUN GRACE SLOTS``."""
    directory, grace_seconds, max_parallel = sys.argv[1:]
    state = run_job(Run(Path(directory)), float(grace_seconds), int(max_parallel))
    return 0 if state is JobState.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
