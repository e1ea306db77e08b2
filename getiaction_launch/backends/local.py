"""This machine: nodes are shares of it, and the job is a process that outlives its shell.

The command that submits a run starts one detached job process. That process writes into
``job.json`` how to find it and runs attempts (:func:`getiaction_launch.node.conductor.drive`) on
nodes that are its children. ``status`` and ``cancel`` work from any shell of the machine. For the
runs of a sweep, the command starts a queue (:mod:`getiaction_launch.backends.queue`), which starts
their job processes.
"""

import atexit
import contextlib
import errno
import gc
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from getiaction_launch.backends.backend import LOCAL, Backend, Job, replace_fields
from getiaction_launch.backends.process import ProcessJob
from getiaction_launch.backends.queue import is_next, start_jobs
from getiaction_launch.backends.starting import SIDE_BY_SIDE, write_job
from getiaction_launch.errors import CheckError, counted
from getiaction_launch.node.allocation import Allocation
from getiaction_launch.node.conductor import drive
from getiaction_launch.node.environment import available_cpus
from getiaction_launch.node.guard import Guard
from getiaction_launch.node.nodes import node_command
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.lease import holding_lease
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.child import start_child
from getiaction_launch.system.gpus import visible_gpus
from getiaction_launch.system.orphans import kill_processes_of
from getiaction_launch.system.ports import reserve_port
from getiaction_launch.system.stop import StopRequest

ADDRESS = "127.0.0.1"
JOB = "getiaction_launch.backends.local"
"""The module of a job process: not __name__, which is __main__ there."""
POLL_SECONDS = 0.05
SLOT_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class LocalBackend:
    """Trains on this machine, which is divided among the nodes.

    Args:
        grace_seconds: How long workers may take to end after SIGTERM before they are killed.
    """

    grace_seconds: float = 5

    def __post_init__(self) -> None:
        if self.grace_seconds < 0:
            raise ValueError(f"grace_seconds={self.grace_seconds} must be 0 or more")

    @property
    def start_seconds(self) -> float:
        """How long a job may take to begin, in seconds; a later one waits for its turn."""
        return 2

    @property
    def has_queue(self) -> bool:
        """Whether jobs wait in a queue: a run starts at once."""
        return False

    def with_settings(self, values: Mapping[str, object]) -> Backend:
        """Return this backend with other values for some of its fields."""
        return replace_fields(self, values)

    def resolve_runs(self, root: str) -> Backend:  # noqa: ARG002 - the contract's argument
        """Return this backend: none of its settings names a run."""
        return self

    def working_directory(self) -> Path | None:
        """Return None: relative paths refer to the shell's directory."""
        return None

    def free_gpus(self, num_nodes: int) -> int | None:
        """Return how many GPUs each node gets if this machine's are divided evenly.

        Raises:
            CheckError: If this machine has GPUs, but fewer than nodes.
        """
        have = len(visible_gpus())
        if 0 < have < num_nodes:
            raise CheckError(
                f"{num_nodes} nodes need at least {num_nodes} GPUs, but this machine has {have}.",
                f"--nodes {have}, or train on CPU: --gpus-per-node 0",
            )
        return have // num_nodes

    def check(self, plan: Plan) -> None:
        """Check that this machine has enough GPUs.

        Raises:
            CheckError: If this machine has too few GPUs.
        """
        wanted = plan.topology.num_nodes * plan.topology.gpus_per_node
        have = len(visible_gpus())
        if wanted > have:
            raise CheckError(
                f"the plan needs {counted(plan.topology.num_nodes, 'node')} x "
                f"{counted(plan.topology.gpus_per_node, 'GPU')} = {counted(wanted, 'GPU')}, but "
                f"this machine has {have or 'none'}.",
                "Ask for fewer (--nodes, --gpus-per-node) or train on CPU: "
                "--trainer.accelerator=cpu",
            )

    def check_offers(self, plan: Plan) -> str:  # noqa: ARG002 - the contract's argument
        """Return what this machine is; :meth:`check` has judged it."""
        return "this machine"

    def describe(self, plan: Plan) -> list[str]:
        """Return the command of each node."""
        directory = f"{plan.root}/{plan.name}/version_N"
        commands = []
        for rank in range(plan.topology.num_nodes):
            variables = _node_variables(plan, rank)
            words = [f"{k}={v}" for k, v in variables.items()]
            words += node_command(directory, 0, rank, self.grace_seconds)
            commands.append(shlex.join(words))
        return commands

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Start a job process, or for several runs a queue; both outlive the shell.

        Raises:
            CheckError: If that process ends before ``job.json`` is written.
        """
        parallel = min(max_parallel or 1, len(runs))
        words = [str(self.grace_seconds), str(parallel)]
        start_jobs(runs, self._record, JOB, words, parallel)

    @property
    def _record(self) -> BackendRecord:
        # Not record_of(): in a job process, this class is one of __main__.
        return BackendRecord(LOCAL, asdict(self))

    def attach(self, run: Run, record: JobRecord) -> Job:
        """Find a job that was submitted by any shell of this machine."""
        return ProcessJob(run, record, self.grace_seconds)

    def allocation(self, plan: Plan) -> Allocation | None:  # noqa: ARG002 - the contract's argument
        """Return None: only the launcher itself starts nodes."""
        return None


def _node_variables(plan: Plan, node_rank: int, max_parallel: int = 1) -> dict[str, str]:
    """Return the environment variables that divide this machine's CPUs and GPUs among nodes.

    Args:
        plan: The plan of the run that the node belongs to.
        node_rank: Rank of the node, from 0.
        max_parallel: How many runs of the same sweep share the CPUs.
    """
    threads = max(1, available_cpus() // (plan.topology.world_size * max_parallel))
    variables = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    count = plan.topology.gpus_per_node
    share = visible_gpus()[node_rank * count : (node_rank + 1) * count]
    return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(share)}


class LocalNodes:
    """Shares of this machine, each a process of :mod:`getiaction_launch.node.node`."""

    def __init__(
        self, run: Run, grace_seconds: float, max_parallel: int, stack: contextlib.ExitStack
    ) -> None:
        self._run, self._grace_seconds, self._stack = run, grace_seconds, stack
        self._max_parallel = max_parallel
        self._plan = Plan.of(run)

    @property
    def poll_seconds(self) -> float:
        """Often: to look at a child process costs little."""
        return POLL_SECONDS

    def reserve_head(self) -> tuple[str, int]:
        """Return this machine's address, and a free port that is reserved for the attempt."""
        self._stack.close()  # releases the port of the previous attempt
        port, claim = reserve_port()
        self._stack.enter_context(claim)
        return ADDRESS, port

    def start(self, attempt: Attempt) -> list["LocalNode"]:
        """Start a process for each node."""
        self._token = attempt.token
        log_directory = self._run.make_log_directory(attempt.number)
        directory = str(self._run.directory)
        return [
            LocalNode(
                start_child(
                    node_command(directory, attempt.number, rank, self._grace_seconds),
                    log_directory / f"node_{rank}.log",
                    {**os.environ, **_node_variables(self._plan, rank, self._max_parallel)},
                )
            )
            for rank in range(self._plan.topology.num_nodes)
        ]

    def stop_cause(self) -> Cause | None:
        """Return None: nobody takes this machine's nodes away."""
        return None

    def clean(self, exit_codes: Sequence[int | None]) -> None:
        """Kill the processes that the workers of a failed attempt have left behind."""
        if any(code != 0 for code in exit_codes):
            kill_processes_of(str(self._run.local.directory), [self._token])


@dataclass(frozen=True)
class LocalNode:
    """The process of a node, as :class:`~getiaction_launch.node.nodes.NodeHandle`."""

    process: "subprocess.Popen[bytes]"

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Ask it to save and to end."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)


def run_job(
    run: Run, backend: LocalBackend, max_parallel: int, make_nodes: type[LocalNodes] = LocalNodes
) -> JobState:
    """Be the job process of a run: write its ``job.json`` and run attempts until the run has ended.

    Args:
        run: The run to train.
        backend: The backend that submitted the run.
        max_parallel: How many runs of the same sweep may run at the same time.
        make_nodes: Class of the nodes; a drill has its own.

    Returns:
        The state in which the last attempt ended; INTERRUPTED if none has begun.
    """
    stop = StopRequest()
    # A resumed point keeps its share: with more threads, sums would be rounded in another order.
    sharing = max(max_parallel, _runs_side_by_side(run))
    write_job(run, backend._record, side_by_side=sharing)  # noqa: SLF001 - of this module
    guard = Guard(run)

    def is_stopped() -> bool:
        return stop.signal is not None or guard.is_cancelled or guard.loss() is not None

    @contextlib.contextmanager
    def place() -> Iterator[LocalNodes]:
        with contextlib.ExitStack() as stack:
            yield make_nodes(run, backend.grace_seconds, sharing, stack)

    with (
        holding_lease(run),
        contextlib.closing(_take_slot(Plan.of(run), max_parallel, is_stopped)),
    ):
        ending = drive(run, place, is_stopped)
    return ending.state if ending else JobState.INTERRUPTED


def _runs_side_by_side(run: Run) -> int:
    """Return how many runs have shared the CPUs with a run in its last job, itself included."""
    record = JobRecord.read(run)
    found = record.details.get(SIDE_BY_SIDE) if record else None
    return max(1, found) if isinstance(found, int) else 1


def _take_slot(plan: Plan, max_parallel: int, is_stopped: Callable[[], bool]) -> socket.socket:
    """Wait until fewer than ``max_parallel`` points of the sweep run.

    A slot is a name in Linux's abstract namespace (unix(7)), which disappears with its process.
    """
    # Only the unique end of the group's name, since the socket's name is limited to 107 bytes.
    group = plan.sweep.group.rpartition("-")[2] if plan.sweep else str(os.getpid())
    while not is_stopped():
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


def main() -> int:
    """Be the job process: ``python -m getiaction_launch.backends.local RUN GRACE MAX_PARALLEL``.

    If a queue has started it, the id in the ``job.json`` of that follows.
    """
    atexit.register(gc.freeze)  # a search for garbage would delay the end of the job
    directory, grace_seconds, max_parallel, *queued_as = sys.argv[1:]
    run, backend = Run.at(directory), LocalBackend(float(grace_seconds))
    if queued_as and not is_next(run, *queued_as):
        return 1  # it was resumed in another way
    state = run_job(run, backend, int(max_parallel))
    return 0 if state is JobState.SUCCEEDED else 1


if __name__ == "__main__":
    sys.exit(main())
