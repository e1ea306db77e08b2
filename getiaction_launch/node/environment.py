"""The environment of a worker: torchrun's variables, the Trainer's defaults, its share of CPUs.

https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
"""

import os
from collections.abc import Mapping

from getiaction_launch.plan.plan import Topology


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def process_defaults(workers_per_node: int) -> dict[str, str]:
    """Return the variables of a worker's process that stand where the user has set no other value.

    Args:
        workers_per_node: Number of workers among which the CPUs of the node are divided.
    """
    return {
        "OMP_NUM_THREADS": str(max(1, available_cpus() // workers_per_node)),
        # Else a set of strings has another order on each rank, and after each restart.
        "PYTHONHASHSEED": "0",
        # What glibc's thresholds grow to at most. Until they do, each step may give memory back to
        # the kernel and take it again: https://man7.org/linux/man-pages/man3/mallopt.3.html
        "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    }


def worker_environment(
    topology: Topology, node_rank: int, local_rank: int, head: str, run_id: str
) -> dict[str, str]:
    """Return torchrun's environment variables for one worker.

    Args:
        topology: The nodes and workers of the whole run.
        node_rank: Rank of this node, from 0.
        local_rank: Rank of the worker on this node, from 0.
        head: ``address:port`` where the worker of rank 0 will listen.
        run_id: A name that all nodes of the attempt share with no other attempt.
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
        # If the launcher itself was started by torchrun, its workers must not use that store.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }


def trainer_defaults(topology: Topology, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which Lightning's own Trainer follows the launch.

    It takes arguments that a script leaves out from ``PL_TRAINER_<ARGUMENT>``, see
    ``lightning.pytorch.utilities.argparse``. Without them, each worker would train alone.

    Args:
        topology: The nodes and workers of the whole run.
        environment: The worker's other variables, which win.
    """
    if topology.world_size == 1:
        return {}
    own = {
        "PL_TRAINER_NUM_NODES": str(topology.num_nodes),
        "PL_TRAINER_DEVICES": str(topology.workers_per_node),
    }
    return {name: value for name, value in own.items() if name not in environment}
