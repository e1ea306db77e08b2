"""What SLURM has given this process: which node of which step of which job it is."""

import os
import socket

from getiaction_launch.errors import UsageError
from getiaction_launch.plan.plan import Plan


def check_geometry(plan: Plan) -> int:
    """This node's rank, if the step has one task on each of the plan's nodes.

    Raises:
        UsageError: If not.
    """
    env = os.environ
    if "SLURM_STEP_ID" not in env or "SLURM_NODEID" not in env:
        raise UsageError(
            "`getiaction-launch node` is one node of a SLURM step, and this is none.",
            "In an sbatch script or under salloc: srun --ntasks-per-node=1 getiaction-launch "
            "node RUN_OR_CONFIG",
        )
    num_nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
    num_tasks = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
    wanted = plan.topology.num_nodes
    if (num_nodes, num_tasks) != (wanted, wanted):
        raise UsageError(
            f"the Trainer has num_nodes={wanted}, but this step has {num_tasks} tasks on "
            f"{num_nodes} nodes.",
            f"srun --nodes={wanted} --ntasks={wanted} --ntasks-per-node=1 getiaction-launch "
            f"node ...   or   --nodes={num_nodes}",
        )
    return int(env["SLURM_NODEID"])


def share_cpus(plan: Plan) -> None:
    """Let the workers share the CPUs that the task was given; not every site binds it to them."""
    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        threads = max(1, int(cpus) // plan.topology.workers_per_node)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def job_id() -> str:
    """The job's; of an element of an array, as squeue shows it."""
    env = os.environ
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env["SLURM_JOB_ID"]


def step_id() -> str:
    """The step's, within its job."""
    return os.environ["SLURM_STEP_ID"]


def step_key() -> str:
    """What the tasks of this start of this step share with nothing else."""
    env = os.environ
    restarts = env.get("SLURM_RESTART_COUNT", "0")
    return f"{env['SLURM_JOB_ID']}.{env['SLURM_STEP_ID']}.{restarts}"


def address() -> str:
    """This node as the others reach it: by SLURM's name for it, where that is a host's name."""
    name = os.environ.get("SLURMD_NODENAME", "")
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return socket.gethostname()
    return name or socket.gethostname()
