"""Inside a job of Ray: place nodes, run attempts on them, and say how each ended.

The driver is the one writer of the run's attempts. It is the entrypoint of a job that
:class:`RayBackend` has submitted; a process of its own, with a private cluster; or the job or
notebook in which the user calls the launcher.
"""

import contextlib
import itertools
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from getiaction_launch.backends.process import write_job
from getiaction_launch.backends.ray.agent import NodeAgent
from getiaction_launch.backends.ray.placement import place
from getiaction_launch.mirror.staging import salvage
from getiaction_launch.node.node import SAVE_LIMIT_SECONDS
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import (
    Attempt,
    Ending,
    allow_another,
    judge,
    may_begin,
    read_attempts,
)
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.system.stop import StopRequest

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

    from getiaction_launch.backends.ray.backend import RayBackend

NAMESPACE = "getiaction-launch"
POLL_SECONDS = 0.1
MARGIN_SECONDS = 15
CLEAN_SECONDS = 20
SLOT_SECONDS = 1


class Driver:
    """Runs the attempts of one run, on the cluster that this process is connected to."""

    def __init__(self, run: Run, backend: "RayBackend", stop: StopRequest) -> None:
        self.run, self._backend, self._stop = run, backend, stop
        self._plan = Plan.of(run)
        self._numbers = itertools.count()

    def run_attempts(self, max_parallel: int) -> bool:
        """Until the run has ended; True if its training has finished."""
        if not may_begin(self.run):
            print(f"run {self.run.name} has ended and is not started again", flush=True)
            return bool(self.run.read("done"))
        with self._slot(max_parallel):
            ending = None
            while not self._is_stopped() and (ending is None or ending.goes_on):
                ending = self._run_on_new_nodes()
        return ending is not None and ending.state is JobState.SUCCEEDED

    def _is_stopped(self) -> bool:
        return bool(self._stop.signal) or self.run.read("cancel") is not None

    @contextlib.contextmanager
    def _slot(self, max_parallel: int) -> Iterator[None]:
        """Wait until fewer than ``max_parallel`` points of the sweep run.

        A slot is the name of an actor, which goes with its driver.
        """
        import ray

        group = self._plan.sweep.get("group")
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

    def _run_on_new_nodes(self) -> Ending | None:
        """Run attempts as long as none of the nodes is lost; None if it was stopped before one."""
        from ray.util import remove_placement_group

        try:
            group = place(
                self.run,
                self._backend.bundle(self._plan),
                self._plan.topology.num_nodes,
                self._backend.placement_limit_seconds,
                may_share=self._backend.share_nodes,
                is_stopped=self._is_stopped,
            )
        except TimeoutError as error:
            ending = Ending(JobState.FAILED, Cause.NODE_FAILURE, str(error))
            self._begin("", 0).end(ending)
            return ending
        if group is None:
            return None
        agents = [self._make_agent(group, rank) for rank in range(group.bundle_count)]
        try:
            ending, is_whole = self._run_on(group, agents)
            while ending.goes_on and is_whole and not self._is_stopped():
                ending, is_whole = self._run_on(group, agents)
            return ending
        finally:
            import ray

            for agent in agents:
                ray.kill(agent)
            remove_placement_group(group)

    def _make_agent(self, group: "PlacementGroup", rank: int) -> Any:  # noqa: ANN401 - an actor
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        bundle = dict(self._backend.bundle(self._plan))
        options = {
            "num_cpus": bundle.pop("CPU"),
            "num_gpus": bundle.pop("GPU", 0),
            "memory": bundle.pop("memory", None),
            "resources": bundle or None,
            "max_restarts": 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, rank),
        }
        actor: Any = ray.remote(NodeAgent)
        return actor.options(**options).remote(str(self.run.directory))

    def _begin(self, address: str, port: int) -> Attempt:
        key = f"{socket.gethostname()}.{os.getpid()}.{next(self._numbers)}"
        salvage(self.run, len(read_attempts(self.run)))
        return Attempt.begin(self.run, key, address, port)

    def _run_on(self, group: "PlacementGroup", agents: Sequence[Any]) -> tuple[Ending, bool]:
        """Run an attempt; returns how it ended, and whether another one can have its nodes."""
        import ray

        attempt = None
        try:
            places: list[tuple[str, str, str]] = ray.get([a.locate.remote() for a in agents])
            port: int = ray.get(agents[0].reserve_port.remote())
            attempt = self._begin(places[0][0], port)
            print(
                f"attempt {attempt.number} on {', '.join(host for _, host, _ in places)}",
                flush=True,
            )
            grace_seconds = self._backend.grace_seconds
            is_shipped = self._backend.is_shipped
            variables = self._variables()
            starts = [
                agent.start.remote(
                    *(attempt.number, rank, grace_seconds, address, variables),
                    is_shipped=is_shipped,
                )
                for rank, (agent, (address, *_)) in enumerate(zip(agents, places, strict=True))
            ]
            ray.get(starts)
        except ray.exceptions.RayError as error:
            return self._fail(attempt or self._begin("", 0), error), False
        node_ids = {node_id for *_, node_id in places}
        exit_codes = self._watch(agents, node_ids)
        self._clean(group, [rank for rank, code in enumerate(exit_codes) if code is None])
        stopped_by = Cause.PREEMPTION if _are_draining(node_ids) else None
        stopped_by = Cause.STOP if self._is_stopped() else stopped_by
        ending = self._end(attempt, judge(self.run, attempt.number, exit_codes, stopped_by))
        return ending, None not in exit_codes and stopped_by is None

    def _end(self, attempt: Attempt, ending: Ending) -> Ending:
        ending = allow_another(self.run, ending)
        attempt.end(ending)
        print(f"attempt ended: {ending.state.value} {ending.reason}", flush=True)
        return ending

    def _variables(self) -> dict[str, str]:
        topology = self._plan.topology
        # Ray counts an actor's CPUs, not those of each worker in it.
        variables = {"OMP_NUM_THREADS": str(self._backend.cpus_per_worker)}
        if not topology.gpus_per_node:
            variables["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves all to whoever asks for none
        return variables

    def _fail(self, attempt: Attempt, error: Exception) -> Ending:
        """End an attempt whose nodes could not be started."""
        import ray

        cause, words = Cause.NODE_FAILURE, str(error)
        if isinstance(error, ray.exceptions.RayTaskError):  # an error of the agent's own
            cause, words = Cause.CRASH, str(error.cause)
        return self._end(attempt, Ending(JobState.FAILED, cause, words))

    def _watch(self, agents: Sequence[Any], node_ids: set[str]) -> list[int | None]:
        """Every node's exit code; None for one that has gone silent."""
        import ray

        codes: dict[int, int | None] = {}
        polls: dict[Any, int] = {}
        stopped_at: float | None = None
        patience_seconds = self._backend.grace_seconds + SAVE_LIMIT_SECONDS + MARGIN_SECONDS
        while len(codes) < len(agents):
            asked = set(polls.values()) | codes.keys()
            polls |= {
                agent.poll.remote(): rank for rank, agent in enumerate(agents) if rank not in asked
            }
            ready, _ = ray.wait(list(polls), num_returns=len(polls), timeout=POLL_SECONDS)
            for poll in ready:
                rank = polls.pop(poll)
                try:
                    code = ray.get(poll)
                except ray.exceptions.RayError:
                    codes[rank] = None
                else:
                    if code is not None:
                        codes[rank] = code
            has_failed = any(code != 0 for code in codes.values())
            if stopped_at is None and (has_failed or self._is_stopped() or _are_draining(node_ids)):
                stopped_at = time.monotonic()
                for agent in agents:
                    agent.stop.remote()
            if stopped_at is not None and time.monotonic() - stopped_at > patience_seconds:
                break
            time.sleep(POLL_SECONDS)
        return [codes.get(rank) for rank in range(len(agents))]

    def _clean(self, group: "PlacementGroup", ranks: Sequence[int]) -> None:
        """End what is left on nodes whose actor has died, where they still answer."""
        import ray

        cleaners = [self._make_agent(group, rank) for rank in ranks]
        cleaned: list[Any] = [cleaner.clean.remote() for cleaner in cleaners]
        if cleaned:
            ray.wait(cleaned, num_returns=len(cleaned), timeout=CLEAN_SECONDS)
        for cleaner in cleaners:
            ray.kill(cleaner)


def _are_draining(node_ids: set[str]) -> bool:
    """Whether Ray is about to take one of these nodes away, which it tells by no public door."""
    from ray._private.state import state

    return not node_ids.isdisjoint(state.get_draining_nodes())


class _Slot:
    """A name that one run of a sweep has."""


def main() -> int:
    """Entry of the job: ``python -m getiaction_launch.backends.ray.driver RUN SLOTS [SETTINGS]``.

    With settings, in JSON, it is a process of its own with a private cluster.
    """
    from getiaction_launch.backends.ray.backend import CLASS_PATH, RayBackend

    directory, max_parallel, *private = sys.argv[1:]
    run = Run.at(directory)
    if private:
        # Without a token Ray makes one in the user's home, which their other clusters then ask for.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    if private:
        backend = RayBackend(**json.loads(private[0]))
        write_job(run, CLASS_PATH, json.loads(private[0]))
        plan = Plan.of(run)
        cpus = backend.bundle(plan)["CPU"] * plan.topology.num_nodes
        num_cpus = max(os.cpu_count() or 1, int(cpus))
        ray.init("local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    else:
        record = run.read("job")
        if record is None:
            print(
                f"error: {socket.gethostname()}, where Ray runs this job's driver, does not see "
                f"{directory}.\nName a directory that all nodes share: --storage-root DIR"
            )
            return 1
        backend = RayBackend(**record["backend"]["init_args"])
        ray.init(log_to_driver=False)
    # After ray.init, which has handlers of its own.
    is_success = Driver(run, backend, StopRequest()).run_attempts(int(max_parallel))
    ray.shutdown()
    return 0 if is_success else 1


if __name__ == "__main__":
    sys.exit(main())
