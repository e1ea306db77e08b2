"""The processes of a node of Ray, bound to die with the task of SLURM that has started them.

``start FLAGS...`` becomes Ray's own command; ``await N`` waits for N nodes.
"""

import contextlib
import os
import sys
import time

from getiaction_launch.system.child import die_with_parent

POLL_SECONDS = 0.1
# Ports of 0 are chosen by the kernel; by default all clusters choose from the same few.
FREE_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")


def await_nodes(num_nodes: int) -> None:
    """Return when so many nodes of the cluster that ``RAY_ADDRESS`` names are alive."""
    import ray

    while not ray.is_initialized():
        with contextlib.suppress(ConnectionError, RuntimeError, TimeoutError):  # not up yet
            ray.init(log_to_driver=False)
    while sum(node["Alive"] for node in ray.nodes()) < num_nodes:
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Do what the first word says."""
    die_with_parent()
    verb, *words = sys.argv[1:]
    if verb == "await":
        await_nodes(int(words[0]))
        return
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words, *FREE_PORTS]
    # The binding outlives execv(2), and Ray's daemons are bound to this process by Ray.
    os.execv(sys.executable, [*start, "--disable-usage-stats"])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
