"""One node of one step of a SLURM job, which SLURM has given to this process.

Either submitit starts this process on every node of a job
(:mod:`getiaction_launch.backends.slurm.step`), or the user's own batch script does, by ``srun
getiaction-launch node``. Everything is read from SLURM's environment variables
(https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES). Only the launcher asks
for requeues, neither Lightning nor submitit.
"""

import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR2, Signals

from getiaction_launch.backends.backend import load_backend
from getiaction_launch.backends.slurm.state.log import first_words, says_out_of_memory
from getiaction_launch.errors import UsageError, counted
from getiaction_launch.node.allocation import Limits
from getiaction_launch.node.sidecar import MakeSidecar
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause

COMMAND_SECONDS = 60
QUICK_SECONDS = 10
"""The limit where SLURM kills this process soon: after KillWait, 30 seconds by default."""


@dataclass(frozen=True)
class SlurmAllocation:
    """One node of one start of a step; see :class:`getiaction_launch.node.allocation.Allocation`.

    Attributes:
        backend: The backend that later jobs of the run are submitted with.
        limits: How long the workers may take to save and to exit.
        make_sidecar: Class or function that makes the sidecar of each node.
        environment: Environment variables for the workers; a variable that is set already keeps its
            value.
    """

    backend: BackendRecord
    limits: Limits
    make_sidecar: MakeSidecar
    environment: Mapping[str, str]

    def announce(self) -> None:
        """Mark in the log where this start of the job begins."""
        if self.node_rank == 0:
            print(first_words(self.key), flush=True)

    @property
    def node_rank(self) -> int:
        """Rank of this node in the step, from 0."""
        return int(os.environ["SLURM_NODEID"])

    @property
    def job_id(self) -> str:
        """The job's id as squeue shows it: ``123``, or ``123_4`` for an element of an array."""
        env = os.environ
        if "SLURM_ARRAY_JOB_ID" in env:
            return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
        return env["SLURM_JOB_ID"]

    @property
    def step_id(self) -> str:
        """The step's id within its job."""
        return os.environ["SLURM_STEP_ID"]

    @property
    def key(self) -> str:
        """A name that all tasks of this start of this step share with no other start."""
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        return f"{os.environ['SLURM_JOB_ID']}.{self.step_id}.{restarts}"

    @property
    def address(self) -> str:
        """SLURM's name for this node if other nodes can resolve it, otherwise the host name."""
        name = os.environ.get("SLURMD_NODENAME", "")
        try:
            socket.getaddrinfo(name, None)
        except OSError:
            return socket.gethostname()
        return name or socket.gethostname()

    def record(self) -> JobRecord:
        """Return the content of ``job.json`` for a run inside the user's own batch script."""
        return JobRecord(
            self.backend,
            job_id=self.job_id,
            submitted_at=time.time(),
            step_id=self.step_id,
            details={"cluster": os.environ.get("SLURM_CLUSTER_NAME")},
        )

    def owns(self, record: JobRecord) -> bool:
        """Whether ``record`` describes this step, or this job as a whole."""
        cluster = record.details.get("cluster")
        is_here = cluster in (None, os.environ.get("SLURM_CLUSTER_NAME"))
        is_step = record.step_id in (None, self.step_id)
        return record.job_id == self.job_id and is_here and is_step

    def stop_cause(self, stopped_by: Signals) -> Cause | None:
        """Return why SLURM signalled this step; None if srun did, since another task has ended.

        Args:
            stopped_by: The first signal that this process received.
        """
        job_id = os.environ["SLURM_JOB_ID"]
        said = _scontrol("show", "job", job_id, limit_seconds=QUICK_SECONDS)[1]
        print(*re.findall(r"(?:JobState|Reason|PreemptTime)=\S+", said), flush=True)
        log = re.search(r"StdOut=(.+)", said)
        if log and says_out_of_memory(Path(log[1]), self.key):
            return Cause.OUT_OF_MEMORY
        if re.search(r"PreemptTime=\d", said):
            return Cause.PREEMPTION
        if "Reason=TimeLimit" in said:
            return Cause.TIME_LIMIT
        # SLURM ends a job whose node is down; without accounting, only the node's state shows it.
        words = ("--oneliner", "show", "node", os.environ["SLURM_JOB_NODELIST"])
        nodes = _scontrol(*words, limit_seconds=QUICK_SECONDS)[1]
        if re.search(r"\bState=DOWN", nodes):
            return Cause.NODE_FAILURE
        state = re.search(r"JobState=(\w+)", said)
        if stopped_by is SIGUSR2 and (state is None or state[1] == "RUNNING"):
            return Cause.TIME_LIMIT  # in other states, the job was cancelled or requeued since then
        return None if state and state[1] == "RUNNING" else Cause.STOP

    def requeue(self) -> str | None:
        """Put this job back into the queue.

        Returns:
            Why that is not possible, for people; None if the job is in the queue.
        """
        code, said = _scontrol("requeue", self.job_id)
        is_queued = code == 0 or "pending" in said.lower()  # SLURM may have requeued it already
        return None if is_queued else f"scontrol: {said.strip() or f'exit code {code}'}"

    def hand_over(self, run: Run) -> str | None:
        """Submit another job, which continues the run when this one has ended.

        It is needed on nodes without ``scontrol`` and at sites that forbid requeues.

        Args:
            run: The run that this job could not be requeued for.

        Returns:
            Why that is not possible, for people; None if the job was submitted.
        """
        try:
            record = JobRecord.read(run) or JobRecord()
            if record.step_id is not None:
                return "submit your own batch script again: sbatch ..."
            backend = load_backend(record.backend, f"{run.launch_directory / 'job.json'}")
            after = {"dependency": f"afterany:{self.job_id}"}
            backend.with_settings(after).submit([run], None)
        except Exception as error:  # noqa: BLE001 - any failure must be recorded in the run
            return f"another job could not be submitted either: {error}"
        return None


def check_geometry(plan: Plan) -> None:
    """Check that the step has one task on each of the plan's nodes.

    Raises:
        UsageError: If this process is not in a SLURM step, or the step has other nodes or tasks.
    """
    env = os.environ
    if "SLURM_STEP_ID" not in env or "SLURM_NODEID" not in env:
        raise UsageError(
            "`getiaction-launch node` must run inside a SLURM step, and this process does not.",
            "In an sbatch script or under salloc: srun --ntasks-per-node=1 getiaction-launch "
            "node RUN_OR_CONFIG",
        )
    num_nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
    num_tasks = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
    wanted = plan.topology.num_nodes
    if (num_nodes, num_tasks) != (wanted, wanted):
        raise UsageError(
            f"the Trainer has num_nodes={wanted}, but this step has {counted(num_tasks, 'task')} "
            f"on {counted(num_nodes, 'node')}.",
            f"srun --nodes={wanted} --ntasks={wanted} --ntasks-per-node=1 getiaction-launch "
            f"node ...   or   --nodes={num_nodes}",
        )


def share_cpus(plan: Plan) -> dict[str, str]:
    """Return the environment variables that divide the task's CPUs among its workers.

    Not every site binds a task to its CPUs, so the workers cannot count them themselves.
    """
    cpus = os.environ.get("SLURM_CPUS_PER_TASK")
    if not cpus:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, int(cpus) // plan.topology.workers_per_node))}


def _scontrol(*words: str, limit_seconds: float = COMMAND_SECONDS) -> tuple[int, str]:
    try:
        result = subprocess.run(
            ["scontrol", *words],  # noqa: S607 - found as the user's shell finds it
            capture_output=True,
            text=True,
            timeout=limit_seconds,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return 1, str(error)
    return result.returncode, result.stdout + result.stderr
