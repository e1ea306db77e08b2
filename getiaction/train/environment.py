"""How many nodes and workers torchrun or srun started, if one of them started this process."""

import os
import re
import warnings
from typing import NamedTuple

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import Strategy

from getiaction.lightning_seams import Plugin

Devices = list[int] | str | int


class _Started(NamedTuple):
    """What a command started, the variables that say so, and the flags that set them."""

    command: str
    nodes: int
    nodes_variable: str
    nodes_flag: str
    workers: int
    workers_variable: str
    workers_flag: str


def follow_starter(
    num_nodes: int, devices: Devices, environment: ClusterEnvironment | None
) -> tuple[int, Devices]:
    """Take the number of nodes and devices from torchrun or srun, where they are left at defaults.

    Args:
        num_nodes: The Trainer's `num_nodes`, whose default is 1.
        devices: The Trainer's `devices`, whose default is "auto".
        environment: Cluster environment that the Trainer was given; None if Lightning detects it.

    Returns:
        The number of nodes, and the devices of each node, for Lightning's Trainer.

    Raises:
        ValueError: The arguments contradict what was started, or srun started different numbers of
            tasks on its nodes.
    """
    if TorchElasticEnvironment.detect() and "LOCAL_WORLD_SIZE" in os.environ:
        started = _by_torchrun(num_nodes)
    elif isinstance(environment, SLURMEnvironment) or (
        environment is None and not TorchElasticEnvironment.detect() and SLURMEnvironment.detect()
    ):
        # Outside a step this is the batch script itself, which is one process, however large the
        # job.
        if "SLURM_STEP_ID" not in os.environ:
            return num_nodes, devices
        started = _by_srun()
    else:
        _warn_of_tasks_that_train_alone(environment)
        return num_nodes, devices
    if num_nodes not in (1, started.nodes):
        msg = (
            f"num_nodes={num_nodes}, but {started.command} started {started.nodes}"
            f" ({started.nodes_variable}={started.nodes}).\n"
            f"Omit num_nodes, or start {started.command} with {started.nodes_flag}={num_nodes}"
        )
        raise ValueError(msg)
    if devices in ("auto", "-1", -1):
        return started.nodes, started.workers
    count = _count_devices(devices)
    if count != started.workers:
        msg = (
            f"devices={devices!r} means {count} per node, but {started.command} started"
            f" {started.workers} ({started.workers_variable}={started.workers}).\n"
            f"Omit devices, or start {started.command} with {started.workers_flag}={count}"
        )
        raise ValueError(msg)
    return started.nodes, devices


def given_environment(
    strategy: str | Strategy, plugins: Plugin | list[Plugin] | None
) -> ClusterEnvironment | None:
    """Find the cluster environment in a Trainer's arguments.

    Args:
        strategy: The Trainer's `strategy`; an instance may have an environment.
        plugins: The Trainer's `plugins`, which may include an environment.

    Returns:
        The cluster environment; None if there is none, in which case Lightning detects it.
    """
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if isinstance(plugin, ClusterEnvironment):
            return plugin
    environment: ClusterEnvironment | None = getattr(strategy, "cluster_environment", None)
    return environment


def without_requeueing(
    plugins: Plugin | list[Plugin] | None, environment: ClusterEnvironment | None
) -> Plugin | list[Plugin] | None:
    """Add the environment that Lightning would detect under SLURM, with requeueing turned off.

    Lightning's requeueing saves a checkpoint in a signal handler, which communicates with the other
    ranks and deadlocks if they are at another point of the program.

    Args:
        plugins: The Trainer's `plugins`, to which the environment is added.
        environment: Cluster environment that the Trainer was given, which is not changed.

    Returns:
        The plugins for Lightning's Trainer.
    """
    if environment is not None or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return plugins
    others = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    return [*others, SLURMEnvironment(auto_requeue=False)]


def _by_torchrun(num_nodes: int) -> _Started:
    """Read torchrun's variables: https://docs.pytorch.org/docs/stable/elastic/run.html."""
    return _Started(
        "torchrun",
        int(os.environ.get("GROUP_WORLD_SIZE", num_nodes)),
        "GROUP_WORLD_SIZE",
        "--nnodes",
        int(os.environ["LOCAL_WORLD_SIZE"]),
        "LOCAL_WORLD_SIZE",
        "--nproc-per-node",
    )


def _by_srun() -> _Started:
    """Read srun's variables: https://slurm.schedmd.com/srun.html.

    SLURM_NTASKS_PER_NODE is set only if the user gave that option, and then it describes the job
    and not the step. Lightning requires it, so it is set to the number of the step's tasks.
    """
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    given = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    listed = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or f"{given}(x{nodes})"  # like 2(x3),1
    counts = {int(count) for count in re.sub(r"\(x\d+\)", "", listed).split(",")}
    tasks = int(os.environ["SLURM_NTASKS"])
    workers = counts.pop()
    if counts or nodes * workers != tasks:
        msg = (
            f"srun started {tasks} tasks on {nodes} nodes ({listed} per node), but training needs"
            " the same number on each node.\nStart one task per device:"
            f" srun --nodes={nodes} --ntasks-per-node={max(1, tasks // nodes)}"
        )
        raise ValueError(msg)
    os.environ["SLURM_NTASKS_PER_NODE"] = str(workers)
    return _Started(
        *("srun", nodes, "SLURM_NNODES", "--nodes"),
        *(workers, "SLURM_NTASKS_PER_NODE", "--ntasks-per-node"),
    )


def _warn_of_tasks_that_train_alone(environment: ClusterEnvironment | None) -> None:
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if environment is None and tasks > 1 and not TorchElasticEnvironment.detect():
        name = SLURMEnvironment.job_name()
        msg = (
            f"srun started {tasks} tasks, but each trains alone, because Lightning takes a job with"
            f" the name {name!r} for an interactive shell.\n"
            "To train together, give the step another name: srun --job-name=train ..."
        )
        warnings.warn(msg, stacklevel=5)


def _count_devices(devices: Devices) -> int:
    """Count devices as Lightning does: "2" is two of them; "2," and [2] are device 2 alone."""
    if isinstance(devices, str) and "," in devices:
        return sum(bool(part.strip()) for part in devices.split(","))
    return int(devices) if isinstance(devices, str | int) else len(devices)
