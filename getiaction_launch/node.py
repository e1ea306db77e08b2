"""One node's share of a run: start a worker for each device, watch them, end them together.

The workers get the environment of torchrun (https://docs.pytorch.org/docs/stable/elastic/run.html),
which Lightning's ``TorchElasticEnvironment`` and any plain DDP script understand. The processes
are started here and not by torchrun, whose import alone costs a node 1.7 s of CPU before its
workers begin, and which dies of the signals that schedulers send to every process of a step.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from getiaction_launch.parent import die_with_parent
from getiaction_launch.plan import Plan, Topology
from getiaction_launch.run import Run, WorkerError

POLL_SECONDS = 0.05
RUN_VARIABLE = "GETIACTION_RUN_DIR"
"""Names the run's directory to every worker, and marks every process that a worker starts."""


class StopRequest:
    """Set by SIGTERM or Ctrl-C from its making on; what follows is up to the main loop.

    Attributes:
        is_set: Whether one of them has come.
    """

    def __init__(self) -> None:
        self.is_set = False
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._set)

    def _set(self, _signal: int, _frame: object) -> None:
        self.is_set = True


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_environment(
    topology: Topology, node_rank: int, local_rank: int, head: str, run_id: str
) -> dict[str, str]:
    """Torchrun's variables for one worker.

    Args:
        topology: Of the whole run.
        node_rank: This node, from 0.
        local_rank: The worker on this node, from 0.
        head: ``address:port`` where rank 0 will listen.
        run_id: The same on every node of a run and on no other run's.
    """
    address, _, port = head.rpartition(":")
    rank = node_rank * topology.workers_per_node + local_rank
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "GROUP_RANK": str(node_rank),
        "ROLE_RANK": str(rank),
        "ROLE_NAME": "default",
        "WORLD_SIZE": str(topology.world_size),
        "LOCAL_WORLD_SIZE": str(topology.workers_per_node),
        "GROUP_WORLD_SIZE": str(topology.num_nodes),
        "ROLE_WORLD_SIZE": str(topology.world_size),
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": run_id,
        # Where this command itself runs under torchrun, that one's store is not ours.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }


def node_command(
    directory: str, node_rank: int, head: str, attempt: int, grace_seconds: float
) -> list[str]:
    """The command line of :func:`run_node`."""
    flags = {
        "--node-rank": node_rank,
        "--head": head,
        "--attempt": attempt,
        "--grace-seconds": grace_seconds,
    }
    words = [str(word) for flag in flags.items() for word in flag]
    return [sys.executable, "-m", "getiaction_launch.node", directory, *words]


def run_node(run: Run, node_rank: int, head: str, attempt: int, grace_seconds: float) -> int:
    """Run this node's workers to their end.

    When one fails, or this process gets SIGTERM, the others get SIGTERM and, after
    ``grace_seconds``, SIGKILL.

    Args:
        run: Its ``plan.json`` says what to do.
        node_rank: This node, from 0.
        head: ``address:port`` where rank 0 listens; the same on every node.
        attempt: Which start of the run this is.
        grace_seconds: Between SIGTERM and SIGKILL.

    Returns:
        0 if every worker ended well, else 1.
    """
    plan = Plan.of(run)
    run.log_directory(attempt).mkdir(parents=True, exist_ok=True)
    stop = StopRequest()
    workers = {}
    for local_rank in range(plan.topology.workers_per_node):
        variables = worker_environment(
            plan.topology, node_rank, local_rank, head, f"{run.name}/{attempt}"
        )
        workers[int(variables["RANK"])] = _start_worker(plan, run, attempt, variables)
    alive = dict(workers)
    failed = False
    while alive and not (failed or stop.is_set):
        time.sleep(POLL_SECONDS)
        for rank, worker in list(alive.items()):
            if worker.poll() is not None:
                del alive[rank]
                if worker.returncode != 0:
                    failed = True
                    _record_death(run, attempt, rank, node_rank, worker.returncode)
    _stop(list(workers.values()), grace_seconds)
    return 1 if failed or stop.is_set else 0


def _start_worker(
    plan: Plan, run: Run, attempt: int, variables: dict[str, str]
) -> "subprocess.Popen[bytes]":
    threads = max(1, available_cpus() // plan.topology.workers_per_node)
    with (run.log_directory(attempt) / f"rank_{variables['RANK']}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "getiaction_launch.worker", str(run.directory)],
            env={
                "OMP_NUM_THREADS": str(threads),
                **os.environ,
                **plan.env_vars,
                **variables,
                RUN_VARIABLE: str(run.directory),
                "GETIACTION_LAUNCH_ATTEMPT": str(attempt),
                "GETIACTION_LAUNCH_PARENT": str(os.getpid()),
            },
            cwd=plan.working_directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # A session of its own: the signals of a terminal or a scheduler's step come through
            # this process alone, and loader workers can be ended with their worker.
            start_new_session=True,
        )


def _record_death(run: Run, attempt: int, rank: int, node_rank: int, returncode: int) -> None:
    """Say why a worker ended, where it could not say so itself."""
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = ", often the kernel's answer to a lack of memory" if name == "SIGKILL" else ""
        message = f"the worker was killed by {name}{hint}"
    else:
        message = f"the worker ended with exit code {returncode} and no exception"
    with contextlib.suppress(OSError):  # a full disk must not keep the node from ending the others
        run.write_error(
            attempt,
            WorkerError(rank, node_rank, socket.gethostname(), "WorkerDied", message),
        )


def _stop(workers: list["subprocess.Popen[bytes]"], grace_seconds: float) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    deadline = time.monotonic() + grace_seconds
    while time.monotonic() < deadline and any(worker.poll() is None for worker in workers):
        time.sleep(POLL_SECONDS)
    for worker in workers:
        # The whole group, also of a worker that is gone: its loader workers may not be.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def main() -> int:
    """Entry of ``python -m getiaction_launch.node``, as :func:`node_command` writes it."""
    parser = argparse.ArgumentParser(prog="getiaction-launch node", description=main.__doc__)
    parser.add_argument("run")
    parser.add_argument("--node-rank", type=int, required=True)
    parser.add_argument("--head", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--attempt", type=int, default=0)
    parser.add_argument("--grace-seconds", type=float, default=5)
    arguments = parser.parse_args()
    if parent := os.environ.pop("GETIACTION_LAUNCH_PARENT", None):
        die_with_parent(int(parent))
    run, node_rank = Run(Path(arguments.run)), arguments.node_rank
    try:
        return run_node(run, node_rank, arguments.head, arguments.attempt, arguments.grace_seconds)
    except Exception as error:
        plan = Plan.of(run)
        rank = node_rank * plan.topology.workers_per_node
        words = (type(error).__name__, f"the node could not start its workers: {error}")
        run.write_error(
            arguments.attempt, WorkerError(rank, node_rank, socket.gethostname(), *words)
        )
        raise


if __name__ == "__main__":
    sys.exit(main())
