"""A real Ray cluster of several nodes on one machine, for tests, benchmarks and drills.

A head, nodes n1, n2 and so on, and a login node on which no Ray runs, as a user's machine;
``cluster.py`` says how they are made and how they end.

By hand, as root::

    export RAY_ADDRESS=http://10.87.0.10:8265   # the same in every cluster
    python tests/clusters/ray_cluster.py run -- ray job submit -- hostname   # one of its own
    python tests/clusters/ray_cluster.py up DIR                              # one that stays
    python tests/clusters/ray_cluster.py login DIR -- ray job list
    python tests/clusters/ray_cluster.py on DIR n2 -- ps ax
    python tests/clusters/ray_cluster.py status DIR
    python tests/clusters/ray_cluster.py down DIR
"""

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the command line

import psutil
from clusters import cluster, command_line, ordinary_user
from clusters.cluster import LIMIT_SECONDS, LOGIN, Cluster, ClusterError

INSTALL = "apt-get install -y --no-install-recommends iproute2"
HEAD = "head"
TEMPORARY = Path("/tmp/ray")  # noqa: S108 where Ray puts its files by default
GCS_PORT, JOBS_PORT = 6379, 8265
OBJECT_STORE_BYTES = 80_000_000  # Ray's least is 75 MiB
ENDED = ("STOPPED", "SUCCEEDED", "FAILED")  # as ray.job_submission.JobStatus.is_terminal
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
GET = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"

# Ray asks each node every 3 seconds and gives it 10 to answer, so that one without power is dead
# after a minute; here it is after 20 seconds. A token in the home directory, which some other Ray
# has put there, would make this one ask for it. Ray's workers give way to everything else on their
# machine, which here is other tests. Each node measures its processes every 5 seconds, and keeps
# workers ready for a first job in the environment of its daemons, which no run has.
SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_worker_niceness": "0",
    "RAY_prestart_worker_first_driver": "0",
    "REPORTER_UPDATE_INTERVAL_MS": "60000",
}


def missing() -> str | None:
    """Why this machine cannot run a cluster, with the remedy; None if it can."""
    return cluster.missing((), INSTALL)


@dataclass
class RayCluster(Cluster):
    """A Ray cluster: a head, nodes n1, n2 and so on, and a login node without Ray.

    The head offers no CPUs, which Ray advises for large clusters. So jobs' drivers run there and
    their work does not, and each can be lost without the other.

    Args:
        directory: Where logs go, and what Ray writes to /tmp/ray on each node.
        num_nodes: Number of nodes beside the head.
        settings: Variables of the daemons' environment, which their jobs inherit.
        cpus: CPUs that each node offers.
        gpus: GPUs that each node offers. A job is given their numbers, and no GPU.
        head_cpus: CPUs that the head offers.
    """

    num_nodes: int = 3
    cpus: int = 2
    gpus: int = 0
    head_cpus: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.workers = self.nodes
        self.nodes = [HEAD, *self.workers]
        self.address = f"http://{self.address_of(HEAD)}:{JOBS_PORT}"
        """Where the Jobs API answers, for those in the cluster's network."""
        self.node_local = self.directory / "node_local"
        """A directory that exists on every node and is shared by none of them."""

    @property
    def status(self) -> list[str]:
        """The command for a login node that shows all nodes."""
        return [*RAY, "list", "nodes", f"--address={self.address}"]

    @classmethod
    def add_options(cls, parser: argparse.ArgumentParser) -> None:
        """Add to a command line what it can say of a new cluster; the names are the fields'."""
        parser.add_argument("--num-cpus", dest="cpus", type=int, default=cls.cpus)
        parser.add_argument("--num-gpus", dest="gpus", type=int, default=cls.gpus)

    # State

    def states(self) -> dict[str, str]:
        """Each node's state as Ray sees it, ALIVE or DEAD, without those that it never saw.

        Empty when Ray does not answer.
        """
        with contextlib.suppress(ClusterError):
            return {name: "ALIVE" if ids else "DEAD" for name, ids in self._alive().items()}
        return {}

    def jobs(self) -> list[dict[str, Any]]:
        """Return what the Jobs API knows about each job, also about those that have ended.

        Raises:
            ClusterError: If Ray does not answer.
        """
        return self._get("/api/jobs/")

    def placement_groups(self) -> list[dict[str, Any]]:
        """Return what the State API knows about each placement group that is not removed.

        Raises:
            ClusterError: If Ray does not answer.
        """
        groups = self._listed("placement_groups")
        return [group for group in groups if group["state"] != "REMOVED"]

    def wait_idle(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        """Wait until all nodes are alive, all jobs have ended, and no placement group is left.

        Raises:
            ClusterError: If that takes longer than the limit.
        """
        self._until(self._is_idle, "Ray is idle", limit_seconds)

    def _is_idle(self) -> bool:
        with contextlib.suppress(ClusterError):
            alive = self._alive()
            # one that came back before it was missed has two ids for a while
            whole = [len(alive.get(name, ())) for name in self.nodes] == [1] * len(self.nodes)
            ended = whole and all(job["status"] in ENDED for job in self.jobs())
            return ended and not self.placement_groups()
        return False

    def _alive(self) -> dict[str, set[str]]:
        """Return the ids under which each node is alive; none for a node that is dead."""
        names = {self.address_of(name): name for name in self.nodes}
        alive: dict[str, set[str]] = {}
        for node in self._listed("nodes"):
            ids = alive.setdefault(names[node["node_ip"]], set())
            if node["state"] == "ALIVE":
                ids.add(node["node_id"])
        return alive

    def _listed(self, what: str) -> list[dict[str, Any]]:
        return self._get(f"/api/v0/{what}?detail=True")["data"]["result"]["result"]

    def _get(self, path: str) -> Any:
        return json.loads(self.run(sys.executable, "-c", GET, self.address + path).stdout)

    # Faults

    def kill_node(self, name: str) -> None:
        """Cut the node's power: its network is silent, and all its processes are gone."""
        # otherwise the kernel would close its connections, and all others would notice at once
        self._ip(LOGIN, f"link set {name} down")
        super().kill_node(name)

    def kill_raylet(self, name: str) -> None:
        """Kill the node's daemon with SIGKILL, upon which Ray gives the node up.

        What its jobs started may keep running, and no Ray there knows of it.
        """
        for process in self.processes("/raylet/raylet", name):
            if process.name() == "raylet":
                process.kill()
        self._until(lambda: not self.processes("ray.scripts.scripts", name), f"{name} has no Ray")

    def drain(self, name: str) -> None:
        """Announce that the node will be taken away, as a cloud's preemption does."""
        head = f"--address={self.address_of(HEAD)}:{GCS_PORT}"
        why = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=preempted"]
        command = [*self.inside(name), *RAY, "drain-node", head, *why]
        subprocess.run(command, check=True, capture_output=True, timeout=LIMIT_SECONDS)

    def restore(self, name: str) -> None:
        """Restart a node that was killed or drained, or its daemon; wait until it takes jobs.

        If it is the head, all nodes restart: nothing runs on them, and Ray knows no earlier job.

        Raises:
            ClusterError: If the node does not take jobs again.
        """
        if name == HEAD:
            for node in filter(self.holder, self.nodes):
                self.kill_node(node)
            self._start_daemons()
            return
        before = self._alive().get(name, set())
        if self.holder(name):
            # `ray start` keeps running after a drain, and an agent that has not noticed yet that
            # its raylet is dead occupies a port that the next one needs.
            for marker in ("ray.scripts.scripts", "/raylet/raylet", "ray::"):
                for process in self.processes(marker, name):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
            self._until(lambda: not self.processes("/raylet/raylet", name), f"{name} has no Ray")
        else:
            self._start_nodes(name)
        self._start_ray(name)
        self._until(lambda: self._alive().get(name, set()) - before, f"{name} takes jobs")

    # Start

    def _write_files(self) -> None:
        TEMPORARY.mkdir(exist_ok=True)
        TEMPORARY.chmod(0o777)  # as Ray makes it: other users' Ray needs it too
        self.node_local.mkdir(exist_ok=True)
        self.node_local.chmod(0o1777)  # as /tmp
        for name in (LOGIN, *self.nodes):
            temporary = self.directory / "temporary" / name
            temporary.mkdir(parents=True, exist_ok=True)
            ordinary_user.own(temporary)

    def _mounts(self, name: str) -> list[str]:
        own = shlex.quote(f"{self.directory}/temporary/{name}")
        mounts = [f"mount --bind {own} {TEMPORARY}"]
        if name != LOGIN:
            at = shlex.quote(str(self.node_local))
            mounts.append(f"mount -t tmpfs -o mode=1777 tmpfs {at}")
        return mounts

    def _variables(self, name: str) -> dict[str, str]:
        return {} if name == LOGIN else SETTINGS | self.settings

    def _start_daemons(self) -> None:
        self._start_nodes(*self.nodes)
        for name in self.nodes:
            self._start_ray(name)
        # before that, asking would only take the CPU from those that start
        self._until(lambda: self.listens(HEAD, JOBS_PORT), "the Jobs API listens")
        self.wait_idle()

    def _start_ray(self, name: str) -> None:
        words = [f"--node-ip-address={self.address_of(name)}"]
        words += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
        # It searches all logs of the cluster ten times a second, for programs that show what their
        # tasks print.
        words += ["--include-log-monitor=false"]
        if name == HEAD:
            words += ["--head", f"--port={GCS_PORT}", "--disable-usage-stats"]
            words += ["--dashboard-host=0.0.0.0", f"--dashboard-port={JOBS_PORT}"]
            words += [f"--num-cpus={self.head_cpus}", "--num-gpus=0"]
        else:
            words += [f"--address={self.address_of(HEAD)}:{GCS_PORT}"]
            words += [f"--num-cpus={self.cpus}", f"--num-gpus={self.gpus}"]
        user = ordinary_user.become(self.directory / "temporary" / name)
        self._daemon(name, "setsid", "--fork", *user, *RAY, "start", "--block", *words)


if __name__ == "__main__":
    sys.exit(command_line.main(RayCluster, missing()))
