"""Local: nodes are shares of this machine, and the job is a process that outlives its shell.

The command that submits starts one detached job process. That process writes into ``job.json`` how
to find it, starts a node process for each node (:mod:`getiaction_launch.node.node`), waits for
them, writes into ``attempt_N.json`` how the attempt ended, and starts another attempt where the
run's restart budgets allow one. ``status`` and ``cancel`` read those records, so they work from any
shell.
"""

import contextlib
import errno
import itertools
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from getiaction_launch.backends.backend import Job
from getiaction_launch.backends.process import ProcessJob, start_process, write_job
from getiaction_launch.errors import CheckError
from getiaction_launch.mirror.staging import salvage
from getiaction_launch.node.node import (
    POLL_SECONDS,
    available_cpus,
    kill_processes_of,
    node_command,
)
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import (
    Attempt,
    Ending,
    allow_another,
    judge,
    may_begin,
    read_attempts,
    reserve_port,
)
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.child import start_child
from getiaction_launch.system.gpus import visible_gpus
from getiaction_launch.system.stop import StopRequest

ADDRESS = "127.0.0.1"
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
            words = [str(self.grace_seconds), str(max_parallel or 1)]
            start_process(run, "getiaction_launch.backends.local", words)

    def attach(self, run: Run, record: dict[str, Any]) -> Job:
        """Find a job that any shell on this machine submitted."""
        return ProcessJob(run, record)


def _node_variables(plan: Plan, node_rank: int) -> dict[str, str]:
    """What tells the nodes on one machine apart, and keeps them from crowding it."""
    threads = max(1, available_cpus() // plan.topology.world_size)
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    count = plan.topology.gpus_per_node
    share = visible_gpus()[node_rank * count : (node_rank + 1) * count]
    return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(share)}


def run_job(run: Run, grace_seconds: float, max_parallel: int) -> JobState:
    """Run attempts until the run has ended: all that the job process does."""
    stop = StopRequest()
    # Not __name__: this module runs as __main__.
    class_path = "getiaction_launch.backends.local.LocalBackend"
    write_job(run, class_path, {"grace_seconds": grace_seconds})
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
        salvage(run, len(read_attempts(run)))
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
    log_path = attempt.run.make_log_directory(attempt.number) / f"node_{rank}.log"
    return start_child(
        node_command(directory, attempt.number, rank, grace_seconds),
        log_path,
        {**os.environ, **_node_variables(plan, rank)},
    )


def main() -> int:
    """Entry of the job process: ``python -m getiaction_launch.backends.local RUN GRACE SLOTS``."""
    directory, grace_seconds, max_parallel = sys.argv[1:]
    state = run_job(Run.at(directory), float(grace_seconds), int(max_parallel))
    return 0 if state is JobState.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
