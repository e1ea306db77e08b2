"""Local: nodes are shares of this machine, and the job is a process that outlives its shell.

The command that submits starts one detached job process, which says in ``job.json`` how to find it,
starts a node process for each node (:mod:`getiaction_launch.node`), waits for them, and writes how
it went into ``attempt_0.json``. Status and cancel work from any other shell by what stands there.
"""

import contextlib
import functools
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from getiaction_launch.backend import Job, JobState, JobStatus
from getiaction_launch.errors import CheckError, UnreachableError
from getiaction_launch.node import (
    POLL_SECONDS,
    RUN_VARIABLE,
    StopRequest,
    available_cpus,
    node_command,
)
from getiaction_launch.plan import Plan
from getiaction_launch.run import Run

ADDRESS = "127.0.0.1"
# Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20000, 30000)
CANCEL_MARGIN_SECONDS = 15
CANCELLED = "cancelled by its user"


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

    @property
    def starts_at_once(self) -> bool:
        """There is no queue."""
        return True

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
        """The command of each node; the port is chosen when the job starts."""
        directory = f"{plan.root}/{plan.name}/version_N"
        commands = []
        for rank in range(plan.topology.num_nodes):
            variables = _node_variables(plan, rank)
            words = [f"{k}={v}" for k, v in variables.items()]
            words += node_command(directory, rank, f"{ADDRESS}:PORT", 0, self.grace_seconds)
            commands.append(shlex.join(words))
        return commands

    def submit(self, run: Run) -> Job:
        """Start the job process, in a session of its own: it survives this shell.

        Raises:
            CheckError: If it ends before it has said how to find it.
        """
        run.log_directory(0).mkdir(parents=True)
        log_path = run.log_directory(0) / "job.log"
        command = [sys.executable, "-m", "getiaction_launch.backends.local"]
        # A run that a worker of another run submits is not that run's.
        inherited = {k: v for k, v in os.environ.items() if k != RUN_VARIABLE}
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [*command, str(run.directory), str(self.grace_seconds)],
                env=inherited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            while not (record := run.read("job")) and process.poll() is None:
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            process.kill()  # nobody could find it any more
            raise
        if record is None:
            words = _last_line(log_path)
            raise CheckError(f"the job of run {run.name} could not start: {words}")
        return LocalJob(run, record)

    def attach(self, run: Run, record: dict[str, Any]) -> Job:
        """Find a job that any shell on this machine submitted."""
        return LocalJob(run, record)


@dataclass(frozen=True)
class LocalJob:
    """A job process on this machine."""

    run: Run
    record: dict[str, Any]

    def status(self) -> JobStatus:
        """Ask the record of the attempt, then the process table."""
        process = self.record["process"]
        # The process first: it writes its last word before it ends.
        is_alive = _start_time(process["pid"]) == process["started_after_boot_seconds"]
        attempt = self.run.read("attempt_0") or {}
        state = JobState(attempt.get("state", "PENDING"))
        if state.is_over:
            return JobStatus(state, attempt["reason"])
        if process["host"] != socket.gethostname():
            return JobStatus(
                JobState.UNKNOWN, f"it was started on {process['host']}; ask on that machine"
            )
        if is_alive:
            return JobStatus(state)
        if self.run.read("cancel"):
            return JobStatus(JobState.CANCELLED, CANCELLED)
        words = _last_line(self.run.log_directory(0) / "job.log")
        reason = "its job process was killed or the machine restarted"
        return JobStatus(JobState.FAILED, f"{reason}: {words}" if words else reason)

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
        _kill_processes_of(self.run)

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


def _kill_processes_of(run: Run) -> None:
    """End what workers started and left behind, wherever it has moved in the process tree."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(RUN_VARIABLE) == str(run.directory):
                process.kill()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "")


def visible_gpus() -> list[str]:
    """Ids of the GPUs that a process here may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu.strip() for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    return _installed_gpus()


@functools.cache
def _installed_gpus() -> list[str]:
    if (tool := shutil.which("nvidia-smi")) is None:
        return []
    command = [tool, "--query-gpu=index", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise CheckError(
            f"nvidia-smi does not tell which GPUs there are: {error}.",
            "Say it yourself: CUDA_VISIBLE_DEVICES=0,1 getiaction-launch ...",
        ) from error
    return result.stdout.split()


def _node_variables(plan: Plan, node_rank: int) -> dict[str, str]:
    """What tells the nodes on one machine apart, and keeps them from crowding it."""
    threads = max(1, available_cpus() // plan.topology.world_size)
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    count = plan.topology.gpus_per_node
    share = visible_gpus()[node_rank * count : (node_rank + 1) * count]
    return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(share)}


def reserve_port() -> tuple[int, socket.socket]:
    """Find a free port that no other local run takes while the returned socket is open.

    A port that was only found free could be taken by another run before rank 0 listens on it,
    and the ranks of two runs would meet. So the port's name is claimed among all runs of the
    machine too: a name in Linux's abstract namespace (unix(7)) goes with its process.

    Raises:
        CheckError: If every port of :data:`PORTS` is taken.
    """
    for port in random.sample(PORTS, len(PORTS)):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0getiaction-launch-port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("", port))  # all interfaces, as torch's store does
        except OSError:
            claim.close()
        else:
            return port, claim
    raise CheckError(f"no port from {PORTS.start} to {PORTS.stop - 1} is free on this machine.")


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


def run_job(run: Run, grace_seconds: float) -> JobState:
    """Run every node of one attempt and record how it went: all that the job process does."""
    stop = StopRequest()
    host = socket.gethostname()
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
                "started_after_boot_seconds": _start_time(os.getpid()),
            },
        },
    )
    plan = Plan.of(run)
    record = {"number": 0, "started_at": time.time(), "host": host}
    run.write("attempt_0", {**record, "state": JobState.RUNNING, "reason": ""})
    port, claim = reserve_port()
    with claim:
        nodes = [
            _start_node(plan, run, rank, f"{ADDRESS}:{port}", grace_seconds)
            for rank in range(plan.topology.num_nodes)
        ]
        returncodes = [node.poll() for node in nodes]
        while not stop.is_set and None in returncodes and not any(returncodes):
            time.sleep(POLL_SECONDS)
            returncodes = [node.poll() for node in nodes]
        for node in nodes:
            if node.poll() is None:
                node.terminate()
        ended = [node.wait() for node in nodes]
    state, reason = _outcome(run, ended, was_stopped=stop.is_set)
    if state is JobState.SUCCEEDED:
        # The last words of rank 0 with the time; only this file means success.
        run.write("done", {**(run.read("progress") or {}), "finished_at": time.time()})
    else:
        _kill_processes_of(run)
    run.write("attempt_0", {**record, "ended_at": time.time(), "state": state, "reason": reason})
    return state


def _start_node(
    plan: Plan, run: Run, rank: int, head: str, grace_seconds: float
) -> "subprocess.Popen[bytes]":
    with (run.log_directory(0) / f"node_{rank}.log").open("ab") as log:
        return subprocess.Popen(
            node_command(str(run.directory), rank, head, 0, grace_seconds),
            env={
                **os.environ,
                **_node_variables(plan, rank),
                "GETIACTION_LAUNCH_PARENT": str(os.getpid()),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _outcome(run: Run, returncodes: list[int], *, was_stopped: bool) -> tuple[JobState, str]:
    if not any(returncodes):
        return JobState.SUCCEEDED, ""
    if run.read("cancel"):
        return JobState.CANCELLED, CANCELLED
    if was_stopped:
        return JobState.INTERRUPTED, "the job process was told to stop"
    error = run.first_error(0)
    for rank, returncode in enumerate(returncodes):
        if returncode < 0 and (error is None or error.is_consequence):
            name = signal.Signals(-returncode).name
            return JobState.FAILED, f"node {rank} was killed by {name}"
    return JobState.FAILED, str(error) if error else "no worker said why; see the logs"


def main() -> int:
    """Entry of the job process: ``python -m getiaction_launch.backends.local RUN GRACE``."""
    state = run_job(Run(Path(sys.argv[1])), float(sys.argv[2]))
    return 0 if state is JobState.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
