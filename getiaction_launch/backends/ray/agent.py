"""An actor on each node, which starts the node's process and reports its exit code.

The node and its workers are ordinary processes (:mod:`getiaction_launch.node.node`), the same as on
every other backend. The kernel kills them when the actor dies, for whatever reason.
"""

import os
import socket
import subprocess
from collections.abc import Mapping

from getiaction_launch.errors import CheckError
from getiaction_launch.node.deaths import record_kills
from getiaction_launch.node.nodes import node_command
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.run import Run
from getiaction_launch.system.child import start_child
from getiaction_launch.system.memory import count_oom_kills
from getiaction_launch.system.orphans import kill_processes_of
from getiaction_launch.system.ports import reserve_port


class NodeAgent:
    """Runs one node of a run. Every method returns at once, so that ``stop`` is never blocked.

    Args:
        directory: Directory or URL of the run.
    """

    def __init__(self, directory: str) -> None:
        self._run = Run.at(directory)
        self._node: subprocess.Popen[bytes] | None = None

    def locate(self) -> tuple[str, str, str]:
        """Return this node's address, as other nodes reach it, its host name and Ray's node id.

        Raises:
            CheckError: If this node does not see the run's directory.
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
        """Reserve a port for the worker of rank 0, as long as this actor lives."""
        port, self._claim = reserve_port()
        return port

    def start(
        self,
        attempt: int,
        node_rank: int,
        grace_seconds: float,
        variables: Mapping[str, str],
        *,
        is_shipped: bool,
    ) -> None:
        """Start the node's process.

        Args:
            attempt: Number of the attempt, from 0.
            node_rank: Rank of this node, from 0.
            grace_seconds: How long the workers may take between SIGTERM and SIGKILL.
            variables: Environment variables for the workers.
            is_shipped: Whether Ray has copied the user's working directory to this node.
        """
        command = node_command(str(self._run.directory), attempt, node_rank, grace_seconds)
        if is_shipped:
            command += ["--working-directory", os.getcwd()]  # noqa: PTH109 - Ray's spelling of it
        log_path = self._run.make_log_directory(attempt) / f"node_{node_rank}.log"
        variables = {**os.environ, **variables}
        self._place = Attempt.read(self._run, attempt), node_rank, count_oom_kills()
        self._node = start_child(command, log_path, variables)

    def poll(self) -> int | None:
        """Return the exit code of the node's process; None while it runs."""
        code = self._node.poll() if self._node else None
        if code is not None:
            place, node_rank, kills_before = self._place
            record_kills(place, {node_rank: code}, kills_before)
        return code

    def stop(self) -> None:
        """Send SIGTERM to the node's process, as a scheduler would."""
        if self._node and self._node.poll() is None:
            self._node.terminate()

    def clean(self, token: str) -> None:
        """Kill the processes that an earlier actor has left on this node.

        Args:
            token: The token of the attempt that the processes belong to.
        """
        kill_processes_of(str(self._run.local.directory), [token])
