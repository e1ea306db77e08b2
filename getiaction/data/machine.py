"""What a process may use of its machine: CPUs, open files and memory."""

import math
import os
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import get_worker_info

from getiaction.data.errors import DatasetError

CGROUPS = Path("/sys/fs/cgroup")  # of version 2
OWN_CGROUP = Path("/proc/self/cgroup")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's own folder
PREFETCHED = 2  # batches that torch's loaders have each process prepare


def auto_workers(batch_bytes: int = 0) -> int:
    """Compute how many loader processes this rank should start.

    Args:
        batch_bytes: Shared memory that a batch takes, in which loader processes return it.

    Returns:
        The CPUs that this process may use, by affinity and cgroup v2 quota, divided by the number
        of ranks on the node (`LOCAL_WORLD_SIZE`), less one for the rank itself; at least 0, and at
        most as many as the node's shared memory has room for.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = (CGROUPS / "cpu.max").read_text(encoding="ascii").split()
        cpus = min(cpus, math.ceil(int(quota_us) / int(period_us)))
    except (OSError, ValueError):
        pass  # without cgroup v2, or with "max", there is no quota
    workers = max(0, cpus // ranks_of_node() - 1)
    return min(workers, _fitting_workers(workers, batch_bytes))


def open_file_limit() -> int:
    """Return how many files a reader may keep open: a quarter of what its process may.

    Without loader processes, the readers of training and validation are in the same process.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (2**20 if soft == resource.RLIM_INFINITY else soft) // 4)


def limit_bytes(variable: str, default_gb: float) -> float:
    """Return the bytes that an environment variable allows, which is set in GB.

    Args:
        variable: Name of the variable.
        default_gb: The limit where it is not set.

    Raises:
        DatasetError: The value is not a number of 0 or more.
    """
    text = os.environ.get(variable) or str(default_gb)
    try:
        limit_gb = float(text)
    except ValueError:
        limit_gb = -1.0
    if not limit_gb >= 0:
        right = f"export {variable}={default_gb or 1:.0f}"
        msg = f"invalid {variable}={text!r}. Set a size in GB: {right}"
        raise DatasetError(msg)
    return limit_gb * 1e9


def memory_share_bytes() -> int:
    """Return this process's share of a quarter of the free memory, among the loaders of the node.

    The memory of the machine counts, and what a cgroup (version 2) of this process leaves of its
    limit, as under SLURM or in a container.
    """
    info = get_worker_info()
    processes = ranks_of_node() * (1 if info is None else info.num_workers)
    free = [psutil.virtual_memory().available, *_free_in_groups()]
    return max(0, min(free)) // 4 // processes


def _fitting_workers(wanted: int, batch_bytes: int) -> int:
    """Return how many loader processes shared memory has room for, and warn if more are wanted.

    Beyond it they fail, or the kernel ends them by SIGBUS. A container has 64 MB by default.
    """
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return sys.maxsize
    # Those of training stay while others validate.
    batches = free // ranks_of_node() // 2 // max(1, batch_bytes)
    fitting = max(0, (batches - 1) // PREFETCHED)  # besides the batch in use
    if fitting < wanted:
        rank_zero_warn(
            f'num_workers="auto" starts {fitting} loader processes for each rank instead of '
            f"{wanted}, because {SHARED_MEMORY} has only {free / 1e6:.0f} MB free and a batch takes"
            f" {batch_bytes / 1e6:.0f} MB of it. Give the container more shared memory (docker run "
            "--shm-size=16g), or use smaller batches"
        )
    return fitting


def ranks_of_node() -> int:
    """Return the number of ranks on this node, 1 without a launcher that says it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _free_in_groups() -> Iterator[int]:
    """Return what is left of the limit of each cgroup that this process is in."""
    try:
        lines = OWN_CGROUP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for group in (PurePosixPath(own), *PurePosixPath(own).parents):
        try:
            limit, used = (
                int((CGROUPS / group / f"memory.{name}").read_text(encoding="ascii"))
                for name in ("max", "current")
            )
        except (OSError, ValueError):
            continue  # it has no limit
        yield limit - used
