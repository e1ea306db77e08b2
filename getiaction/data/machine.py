"""What a process may use of its machine: CPUs, open files and memory."""

import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil
from torch.utils.data import get_worker_info

CGROUPS = Path("/sys/fs/cgroup")  # of version 2
OWN_CGROUP = Path("/proc/self/cgroup")


def auto_workers() -> int:
    """Compute how many loader processes this rank should start.

    Returns:
        The CPUs that this process may use, by affinity and cgroup v2 quota, divided by the number
        of ranks on the node (`LOCAL_WORLD_SIZE`), less one for the rank itself; at least 0.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota_us, period_us = (CGROUPS / "cpu.max").read_text(encoding="ascii").split()
        cpus = min(cpus, math.ceil(int(quota_us) / int(period_us)))
    except (OSError, ValueError):
        pass  # without cgroup v2, or with "max", there is no quota
    return max(0, cpus // _ranks() - 1)


def open_file_limit() -> int:
    """Return how many files a reader may keep open: a quarter of what its process may.

    Without loader processes, the readers of training and validation are in the same process.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, (2**20 if soft == resource.RLIM_INFINITY else soft) // 4)


def memory_share_bytes() -> int:
    """Return this process's share of a quarter of the free memory, among the loaders of the node.

    The memory of the machine counts, and what a cgroup (version 2) of this process leaves of its
    limit, as under SLURM or in a container.
    """
    info = get_worker_info()
    processes = _ranks() * (1 if info is None else info.num_workers)
    free = [psutil.virtual_memory().available, *_free_in_groups()]
    return max(0, min(free)) // 4 // processes


def _ranks() -> int:
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
