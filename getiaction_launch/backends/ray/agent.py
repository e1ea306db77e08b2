"""An actor on each node: starts the node's process, and says how it goes.

The node and its workers are ordinary processes (:mod:`getiaction_launch.node.node`), the same as on
every other backend, and are bound to die with the actor, however that dies.
"""

import os
import socket
import subprocess
from collections.abc import Mapping

import psutil

from getiaction_launch.errors import CheckError
from getiaction_launch.node.node import node_command
from getiaction_launch.run.run import Run
from getiaction_launch.system.child import start_child
from getiaction_launch.system.orphans import kill_processes_of
from getiaction_launch.system.ports import reserve_port


class NodeAgent:
    """One node's share of one attempt. Every method returns at once, so that ``stop`` comes in.

    Args:
        directory: The run's.
    """

    def __init__(self, directory: str) -> None:
        self._run = Run.at(directory)
        self._node: subprocess.Popen[bytes] | None = None

    def locate(self) -> tuple[str, str, str]:
        """This node's address, as Ray's other nodes reach it, its host name, and Ray's id for it.

        Raises:
            CheckError: If the run's directory is not to be seen here.
        """
        import ray

        host = socket.gethostname()
        if not self._run.read("plan"):
            raise CheckError(
                f"node {host} does not see {self._run.directory}.",
                "Name a directory that all nodes share: --storage-root DIR",
            )
        return ray.util.get_node_ip_address(), host, ray.get_runtime_context().get_node_id()

    def reserve_port(self) -> int:
        """Find a port for rank 0, and keep its claim while this actor lives."""
        port, self._claim = reserve_port()
        return port

    def start(
        self,
        attempt: int,
        node_rank: int,
        grace_seconds: float,
        address: str,
        variables: Mapping[str, str],
        *,
        is_shipped: bool,
    ) -> None:
        """Start the node's process.

        Args:
            attempt: Its number.
            node_rank: This node, from 0.
            grace_seconds: Between SIGTERM and SIGKILL.
            address: This node's.
            variables: For its workers.
            is_shipped: Whether Ray has brought the user's working directory here.
        """
        command = node_command(str(self._run.directory), attempt, node_rank, grace_seconds)
        if is_shipped:
            command += ["--working-directory", os.getcwd()]  # noqa: PTH109 - as Ray spells it
        log_path = self._run.make_log_directory(attempt) / f"node_{node_rank}.log"
        variables = {**_interface(address), **os.environ, **variables}
        self._node = start_child(command, log_path, variables)

    def poll(self) -> int | None:
        """The node's exit code; None while it runs."""
        return self._node.poll() if self._node else None

    def stop(self) -> None:
        """Tell the node to end, as a scheduler would."""
        if self._node and self._node.poll() is None:
            self._node.terminate()

    def clean(self) -> None:
        """End what an actor that was here before has left behind."""
        kill_processes_of(str(self._run.local.directory))


def _interface(address: str) -> dict[str, str]:
    """Name the network interface that has ``address``.

    Gloo would take the one that the host name resolves to, often the loopback, and NCCL the first
    one that is up, often a container's bridge.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if address in (entry.address for entry in addresses):
            return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return {}
