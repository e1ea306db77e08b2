"""Who started this process, torchrun or srun, and how many nodes and workers they started."""

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
    """What a command started, by which variables, and the flags that set them."""

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
    """Take nodes and workers per node from who started them, where they were left to it.

    Args:
        num_nodes: Of the Trainer; 1 is its default.
        devices: Of the Trainer; "auto" is its default.
        environment: What the Trainer was given; None where Lightning is to find out.

    Returns:
        Number of nodes, and devices.

    Raises:
        ValueError: They contradict what was started, or srun's nodes have unlike numbers of tasks.
    """
    if TorchElasticEnvironment.detect() and "LOCAL_WORLD_SIZE" in os.environ:
        started = _by_torchrun(num_nodes)
    elif isinstance(environment, SLURMEnvironment) or (
        environment is None and not TorchElasticEnvironment.detect() and SLURMEnvironment.detect()
    ):
        # Without a step this is the batch script itself: one process, whatever the job may hold.
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
            f"Leave out num_nodes, or start {started.command} with {started.nodes_flag}={num_nodes}"
        )
        raise ValueError(msg)
    if devices in ("auto", "-1", -1):
        return started.nodes, started.workers
    count = _count_devices(devices)
    if count != started.workers:
        msg = (
            f"devices={devices!r} means {count} per node, but {started.command} started"
            f" {started.workers} ({started.workers_variable}={started.workers}).\n"
            f"Leave out devices, or start {started.command} with {started.workers_flag}={count}"
        )
        raise ValueError(msg)
    return started.nodes, devices


def given_environment(
    strategy: str | Strategy, plugins: Plugin | list[Plugin] | None
) -> ClusterEnvironment | None:
    """Find the cluster environment that the Trainer is given.

    Args:
        strategy: Of the Trainer; one that is made may have an environment.
        plugins: Of the Trainer.

    Returns:
        The environment; None where Lightning is to find out.
    """
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if isinstance(plugin, ClusterEnvironment):
            return plugin
    environment: ClusterEnvironment | None = getattr(strategy, "cluster_environment", None)
    return environment


def without_requeueing(
    plugins: Plugin | list[Plugin] | None, environment: ClusterEnvironment | None
) -> Plugin | list[Plugin] | None:
    """Add the environment that Lightning would find under SLURM, with its requeueing off.

    Lightning's saves, and talks to the other ranks, inside a signal handler, where it deadlocks if
    the ranks are not at the same place.

    Args:
        plugins: Of the Trainer.
        environment: What the Trainer was given, which is kept as it is.

    Returns:
        Plugins for Lightning's Trainer.
    """
    if environment is not None or TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return plugins
    others = plugins if isinstance(plugins, list) else [plugins] if plugins else []
    return [*others, SLURMEnvironment(auto_requeue=False)]


def _by_torchrun(num_nodes: int) -> _Started:
    """Read the variables of https://docs.pytorch.org/docs/stable/elastic/run.html."""
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
    """Read the variables of https://slurm.schedmd.com/srun.html.

    SLURM_NTASKS_PER_NODE is there only if a user gave that option, and then of the job, not of the
    step. Lightning insists on it, so it is set to what the step has.
    """
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    given = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
    listed = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or f"{given}(x{nodes})"  # like 2(x3),1
    counts = {int(count) for count in re.sub(r"\(x\d+\)", "", listed).split(",")}
    tasks = int(os.environ["SLURM_NTASKS"])
    workers = counts.pop()
    if counts or nodes * workers != tasks:
        msg = (
            f"srun started {tasks} tasks on {nodes} nodes ({listed} per node), and training needs"
            " the same number on each.\nStart one task per device, the same number on each node:"
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
            f"srun started {tasks} tasks, but each trains alone, because by the job's name,"
            f" {name!r}, Lightning takes this for an interactive shell.\n"
            "To train together, give the step a name: srun --job-name=train ..."
        )
        warnings.warn(msg, stacklevel=5)


def _count_devices(devices: Devices) -> int:
    """Count as Lightning does: "2" is two devices, "2," and [2] are one, number 2."""
    if isinstance(devices, str) and "," in devices:
        return sum(bool(part.strip()) for part in devices.split(","))
    return int(devices) if isinstance(devices, str | int) else len(devices)
