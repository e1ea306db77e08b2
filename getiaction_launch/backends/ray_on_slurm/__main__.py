"""A node of Ray that the kernel kills when the SLURM task that started it dies.

``start FLAGS...`` becomes Ray's own command; ``await N`` waits for N nodes.
"""

import contextlib
import os
import sys
import time

from getiaction_launch.system.child import die_with_parent

POLL_SECONDS = 0.1
# The kernel chooses a free port for 0; by default all clusters would choose from the same few.
FREE_PORTS = ("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0")


def await_nodes(num_nodes: int) -> None:
    """Wait until ``num_nodes`` nodes of the cluster that ``RAY_ADDRESS`` names are alive."""
    import ray

    while not ray.is_initialized():
        # Until the cluster is up, Ray raises one of these.
        with contextlib.suppress(ConnectionError, RuntimeError, TimeoutError):
            ray.init(log_to_driver=False)
    while sum(node["Alive"] for node in ray.nodes()) < num_nodes:
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Run the verb that is the first argument."""
    die_with_parent()
    verb, *words = sys.argv[1:]
    if verb == "await":
        await_nodes(int(words[0]))
        return
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *words, *FREE_PORTS]
    # The request to die with the parent survives execv(2); Ray's daemons die with this process.
    os.execv(sys.executable, [*start, "--disable-usage-stats"])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
