"""The driver of a run on Ray: it reserves nodes, starts an actor on each and runs attempts there.

Only the driver writes the run's attempts. It is the entrypoint of a job that :class:`RayBackend`
has submitted, a process of its own with a private cluster, or the job or notebook in which the user
calls the launcher.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from getiaction_launch.backends.backend import RAY
from getiaction_launch.backends.queue import is_next
from getiaction_launch.backends.ray.agent import NodeAgent
from getiaction_launch.backends.ray.failures import is_out_of_memory, node_errors
from getiaction_launch.backends.ray.placement import place
from getiaction_launch.backends.starting import write_job
from getiaction_launch.node.conductor import drive
from getiaction_launch.node.guard import Guard, is_cancelled
from getiaction_launch.node.nodes import MARGIN_SECONDS, SAVE_LIMIT_SECONDS
from getiaction_launch.node.sidecar import NodeLostError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.lease import holding_lease
from getiaction_launch.run.records import BackendRecord, Done, JobRecord
from getiaction_launch.run.restart import may_begin
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.stop import StopRequest

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from getiaction_launch.backends.ray.backend import RayBackend

NAMESPACE = "getiaction-launch"
POLL_SECONDS = 0.2
CLEAN_SECONDS = 20
SLOT_SECONDS = 1


class Driver:
    """Runs the attempts of one run, on the cluster that this process is connected to.

    Args:
        run: The run to train.
        backend: The backend, with the settings of the run.
        stop: Set when the run must stop.
        runtime_env: What the run's actors get beyond the runtime environment of the job.
    """

    def __init__(
        self,
        run: Run,
        backend: "RayBackend",
        stop: StopRequest,
        runtime_env: Mapping[str, Any] | None = None,
    ) -> None:
        self.run, self._backend, self._stop = run, backend, stop
        self._runtime_env = dict(runtime_env or {})
        self._plan = Plan.of(run)
        self._guard = Guard(run)

    def run_attempts(self, max_parallel: int) -> bool:
        """Run attempts until the run has ended.

        Args:
            max_parallel: How many runs of the same sweep may run at the same time.

        Returns:
            Whether training has finished.
        """
        if not may_begin(self.run):
            print(f"run {self.run.name} has ended and is not restarted", flush=True)
            return Done.read(self.run) is not None
        with holding_lease(self.run), self._slot(max_parallel):
            patience_seconds = self._backend.grace_seconds + SAVE_LIMIT_SECONDS + MARGIN_SECONDS
            ending = drive(self.run, self._place, self._is_stopped, patience_seconds)
        if ending is None:
            print(f"run {self.run.name} was stopped before an attempt began", flush=True)
            return False
        print(f"the last attempt ended as {ending.state.value} {ending.reason}", flush=True)
        return ending.state is JobState.SUCCEEDED

    def _is_stopped(self) -> bool:
        return bool(self._stop.signal or is_cancelled(self.run) or self._guard.loss())

    @contextlib.contextmanager
    def _slot(self, max_parallel: int) -> Iterator[None]:
        """Wait until fewer than ``max_parallel`` points of the sweep run.

        A slot is the name of an actor, which disappears with its driver.
        """
        import ray

        group = self._plan.sweep.group if self._plan.sweep else None
        slot: Any = ray.remote(num_cpus=0)(_Slot)
        claim: Any = None
        while group and claim is None and not self._is_stopped():
            for number in range(max_parallel):
                with contextlib.suppress(ValueError):  # it is taken
                    name = f"{group}-{number}"
                    claim = slot.options(name=name, namespace=NAMESPACE).remote()
                    break
            else:
                time.sleep(SLOT_SECONDS)
        try:
            yield
        finally:
            if claim is not None:
                ray.kill(claim)

    @contextlib.contextmanager
    def _place(self) -> Iterator["_RayNodes | None"]:
        """Reserve nodes and start an agent on each.

        Raises:
            TimeoutError: If there are no nodes within ``placement_limit_seconds``.
        """
        import ray
        from ray.util import remove_placement_group

        group = place(
            self.run,
            self._backend.bundle(self._plan),
            self._plan.topology.num_nodes,
            self._backend.placement_limit_seconds,
            may_share=self._backend.may_share,
            is_stopped=self._is_stopped,
        )
        if group is None:
            yield None
            return
        nodes = _RayNodes(self.run, self._backend, self._runtime_env, group)
        try:
            yield nodes
        finally:
            for agent in nodes.agents:
                ray.kill(agent)
            remove_placement_group(group)


class _RayNodes:
    """The nodes of a placement group, each with an agent."""

    def __init__(
        self,
        run: Run,
        backend: "RayBackend",
        runtime_env: Mapping[str, Any],
        group: "PlacementGroup",
    ) -> None:
        self._run, self._backend, self._runtime_env, self._group = run, backend, runtime_env, group
        self._plan = Plan.of(run)
        self.agents: list[Any] = [self._make_agent(rank) for rank in range(group.bundle_count)]
        self._places: list[tuple[str, str, str]] = []

    def _make_agent(self, rank: int) -> Any:  # noqa: ANN401 - an actor
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = dict(self._backend.bundle(self._plan))
        options = {
            "num_cpus": bundle.pop("CPU"),
            "num_gpus": bundle.pop("GPU", 0),
            "memory": bundle.pop("memory", None),
            "resources": bundle or None,
            "runtime_env": self._runtime_env or None,
            "max_restarts": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._group, rank),
        }
        actor: Any = ray.remote(NodeAgent)
        return actor.options(**options).remote(str(self._run.directory))

    @property
    def poll_seconds(self) -> float:
        """Each time, Ray is asked about every node, and the run's storage for a cancel."""
        return max(POLL_SECONDS, self._run.poll_seconds)

    def reserve_head(self) -> tuple[str, int]:
        """Return the address of the first node, and a port there that its agent has reserved.

        Raises:
            NodeLostError: If a node does not answer.
            CheckError: If a node does not see the run's directory, or has no free port.
        """
        import ray

        with node_errors():
            self._places = ray.get([agent.locate.remote() for agent in self.agents])
            port: int = ray.get(self.agents[0].reserve_port.remote())
        return self._places[0][0], port

    def start(self, attempt: Attempt) -> list["_RayNode"]:
        """Have every agent start its node's process.

        Raises:
            NodeLostError: If a node does not answer.
            CheckError: If a node cannot start its process.
        """
        import ray

        hosts = ", ".join(host for _, host, _ in self._places)
        print(f"attempt {attempt.number} on {hosts}", flush=True)
        variables, self._token = self._variables(), attempt.token
        with node_errors():
            starts = [
                agent.start.remote(
                    *(attempt.number, rank, self._backend.grace_seconds, variables),
                    is_shipped=self._backend.is_shipped,
                )
                for rank, agent in enumerate(self.agents)
            ]
            ray.get(starts)
        return [
            _RayNode(agent, attempt, rank, host)
            for rank, (agent, (_, host, _)) in enumerate(
                zip(self.agents, self._places, strict=True)
            )
        ]

    def _variables(self) -> dict[str, str]:
        # Ray would set it for the actor, which holds the CPUs of all workers of the node.
        variables = {"OMP_NUM_THREADS": str(self._backend.cpus_per_worker)}
        if not self._plan.topology.gpus_per_node:
            variables["CUDA_VISIBLE_DEVICES"] = ""  # without GPUs, Ray would show the actor all
        return variables

    def stop_cause(self) -> Cause | None:
        """Return PREEMPTION if Ray is about to take one of the nodes away, otherwise None."""
        # Beware: Ray has no public function for this.
        from ray._private.state import state

        node_ids = {node_id for *_, node_id in self._places}
        is_draining = not node_ids.isdisjoint(state.get_draining_nodes())
        return Cause.PREEMPTION if is_draining else None

    def clean(self, exit_codes: Sequence[int | None]) -> None:
        """Kill the processes on nodes whose agent has died, if the nodes still answer."""
        import ray

        cleaners = [self._make_agent(rank) for rank, code in enumerate(exit_codes) if code is None]
        cleaned: list[Any] = [cleaner.clean.remote(self._token) for cleaner in cleaners]
        if cleaned:
            ray.wait(cleaned, num_returns=len(cleaned), timeout=CLEAN_SECONDS)
        for cleaner in cleaners:
            ray.kill(cleaner)


@dataclass
class _RayNode:
    """The process of one node, as reported by its agent."""

    agent: Any
    attempt: Attempt
    rank: int
    host: str
    _answers: list[Any] = field(default_factory=list)

    def poll(self) -> int | None:
        import ray

        if not self._answers:
            self._answers.append(self.agent.poll.remote())
        ready, _ = ray.wait(self._answers, timeout=0)
        if not ready:
            return None
        self._answers.clear()
        try:
            code: int | None = ray.get(ready[0])
        except ray.exceptions.RayError as error:
            if is_out_of_memory(error):
                how = "Ray ended the node's processes because memory ran low"
                self.attempt.write_node_error(self.rank, "OutOfMemory", how, self.host)
            raise NodeLostError(str(error)) from error
        return code

    def stop(self) -> None:
        self.agent.stop.remote()


class _Slot:
    """An actor whose name is taken by one run of a sweep at a time."""


def main() -> int:
    """Be the driver: ``python -m getiaction_launch.backends.ray.driver RUN MAX_PARALLEL [local]``.

    With ``local``, it is a process of its own with a private cluster, whose settings are in the
    environment. If a queue has started it, the id in the ``job.json`` of that follows.
    """
    from getiaction_launch.backends.ray.backend import SETTINGS_VARIABLE, RayBackend

    directory, max_parallel, *private = sys.argv[1:]
    run = Run.at(directory)
    if private[1:] and not is_next(run, private[1]):
        return 1  # it was resumed in another way
    settings = os.environ.pop(SETTINGS_VARIABLE, "{}")  # its workers need not have them
    if private:
        # Without it, Ray would create a token in the home directory, and the user's other clusters
        # would then ask for it.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    if private:
        backend = read_dataclass(RayBackend, json.loads(settings), "the settings")
        write_job(run, BackendRecord(RAY, asdict(backend)))
        plan = Plan.of(run)
        resources = backend.private_resources(plan)
        ray.init(
            "local",
            num_cpus=int(resources.pop("CPU")),
            resources=resources,
            runtime_env=backend.job_runtime_env or None,
            include_dashboard=False,
            log_to_driver=False,
        )
    else:
        record = JobRecord.read(run)
        if record is None:
            print(
                f"error: node {socket.gethostname()}, on which Ray runs this driver, does not see "
                f"{directory}.\nName a directory that all nodes share: --storage-root DIR"
            )
            return 1
        backend = read_dataclass(RayBackend, record.backend.init_args, "job.json")
        ray.init(log_to_driver=False)
    # After ray.init, which sets signal handlers of its own.
    is_success = Driver(run, backend, StopRequest()).run_attempts(int(max_parallel))
    ray.shutdown()
    return 0 if is_success else 1


if __name__ == "__main__":
    sys.exit(main())
