"""The Ray cluster for tests is a real one: its nodes, its faults, its end."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from clusters import ordinary_user, ray_cluster
from clusters.cluster import LOGIN, ClusterError, lives
from clusters.ray_cluster import ENDED, HEAD, RAY, RayCluster

LIMIT_SECONDS = 90

ON_NODES = """
import socket, subprocess, sys
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

@ray.remote(num_cpus=2)
class Agent:
    def call(self, *command):
        where = f"{ray.util.get_node_ip_address()} {socket.gethostname()}"
        return where, subprocess.run(command, check=True, capture_output=True, text=True).stdout

ray.init()
nodes = int(sys.argv[1])
group = placement_group([{"CPU": 2}] * nodes, strategy="STRICT_SPREAD")
ray.get(group.ready())
on = [PlacementGroupSchedulingStrategy(group, rank) for rank in range(nodes)]
agents = [Agent.options(scheduling_strategy=strategy).remote() for strategy in on]
for where, output in ray.get([agent.call.remote(*sys.argv[2:]) for agent in agents]):
    print("on", where)
    print(output, flush=True)
remove_placement_group(group)
"""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fail after the limit."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"nothing came of it in {LIMIT_SECONDS} s"
        time.sleep(0.05)


def submit(cluster: RayCluster, *command: str, wait: bool = True) -> str:
    """Submit a job from the login node; return what it said, or its id if it is not waited for."""
    words = (f"--address={cluster.address}", *(() if wait else ("--no-wait",)))
    said = cluster.run(*RAY, "job", "submit", *words, "--", *command).stdout
    return said if wait else re.search(r"raysubmit_\w+", said)[0]


def stop(cluster: RayCluster, job: str) -> None:
    """Stop a job, and wait until it has ended."""
    cluster.run(*RAY, "job", "stop", f"--address={cluster.address}", job)


def sleepers(cluster: RayCluster, marker: str, node: str | None = None) -> list[psutil.Process]:
    """The processes ``sleep`` of a job that was given the marker."""
    return [p for p in cluster.processes(f"MARKER={marker}", node) if p.name() == "sleep"]


@pytest.fixture
def cluster(ray_cluster: RayCluster):
    """The shared cluster, handed on without jobs and with all nodes."""
    yield ray_cluster
    if set(ray_cluster.states().values()) != {"ALIVE"}:
        lost = [name for name in ray_cluster.nodes if ray_cluster.states().get(name) != "ALIVE"]
        for name in [HEAD] if HEAD in lost else lost:
            ray_cluster.restore(name)
    for job in ray_cluster.jobs():
        if job["status"] not in ENDED:
            stop(ray_cluster, job["submission_id"])
    ray_cluster.wait_idle()


def shared_memory() -> set[Path]:
    """Return the files of shared memory, where Ray has its object store."""
    files = Path("/dev/shm").iterdir()  # noqa: S108 where the kernel has it
    # Python's semaphores are those of other tests, which run at the same time.
    return {file for file in files if not file.name.startswith("sem.mp-")}


@pytest.fixture
def on_nodes(tmp_path: Path) -> list[str]:
    """The start of a job's command, which runs what follows on as many nodes as it says first."""
    ordinary_user.own(tmp_path)  # Ray's jobs are that user's, as Ray is
    program = tmp_path / "on_nodes.py"
    program.write_text(ON_NODES)
    return [sys.executable, str(program)]


def test_nodes_are_machines_of_their_own(cluster, on_nodes):
    """A job from the login node reaches nodes with own addresses, names and process tables."""
    show = "getent hosts head && ps ax | grep -c [g]cs_server; ls /tmp/ray"
    said = submit(cluster, *on_nodes, "3", "sh", "-c", show)
    places = {tuple(line.split()[1:]) for line in said.splitlines() if line.startswith("on ")}
    assert places == {(cluster.address_of(name), name) for name in cluster.workers}
    assert said.split().count(cluster.address_of(HEAD)) == 3
    assert said.splitlines().count("0") == 3
    job = max(cluster.jobs(), key=lambda job: job["start_time"])
    assert job["status"] == "SUCCEEDED"
    assert job["driver_info"]["node_ip_address"] == cluster.address_of(HEAD)


def test_idle_means_that_nothing_runs_or_waits(cluster, on_nodes):
    """A cluster is not idle while a job waits for nodes; it is when the job was stopped."""
    job = submit(cluster, *on_nodes, "4", "true", wait=False)
    until(lambda: [group["state"] for group in cluster.placement_groups()] == ["PENDING"])
    with pytest.raises(ClusterError, match="in vain until Ray is idle"):
        cluster.wait_idle(limit_seconds=1)
    stop(cluster, job)
    cluster.wait_idle()
    assert cluster.placement_groups() == []


def test_a_node_loses_power_and_comes_back(cluster, on_nodes):
    """Ray misses a node without power; with power again, all of it is there and takes jobs."""
    submit(cluster, *on_nodes, "3", "env", "MARKER=power", "sleep", "600", wait=False)
    until(lambda: all(sleepers(cluster, "power", name) for name in cluster.workers))
    on_n2 = cluster.processes("", "n2")  # all of them
    cluster.kill_node("n2")
    assert not any(lives(process) for process in on_n2)
    with pytest.raises(ClusterError, match="n2 of the cluster"):
        cluster.on("n2", "true")
    until(lambda: cluster.states()["n2"] == "DEAD")
    until(lambda: not sleepers(cluster, "power"))
    cluster.restore("n2")
    assert "on 10.87.0.12 n2" in submit(cluster, *on_nodes, "3", "true")


def test_idle_means_that_no_node_is_counted_twice(cluster, monkeypatch):
    """A node that came back before Ray missed it is idle only when Ray forgets the one it was."""
    alive = cluster._alive()
    assert cluster._is_idle()
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "_alive", lambda: {**alive, "n3": {*alive["n3"], "before"}})
        assert not cluster._is_idle()


def test_a_killed_daemon_comes_back(cluster, on_nodes):
    """With its raylet a node is lost, and so is what its jobs' workers did; it comes back."""
    submit(cluster, *on_nodes, "3", "env", "MARKER=raylet", "sleep", "600", wait=False)
    until(lambda: all(sleepers(cluster, "raylet", name) for name in cluster.workers))
    cluster.kill_raylet("n1")
    assert "raylet" not in cluster.on("n1", "ps", "axww").stdout
    until(lambda: cluster.states()["n1"] == "DEAD")
    until(lambda: not sleepers(cluster, "raylet"))
    cluster.restore("n1")
    until(lambda: "raylet" in cluster.on("n1", "ps", "axww").stdout)


def test_a_lost_head_begins_anew(cluster, on_nodes):
    """With the head Ray forgets all jobs, and nothing of them runs when it is back."""
    submit(cluster, *on_nodes, "1", "env", "MARKER=head", "sleep", "600", wait=False)
    until(lambda: sleepers(cluster, "head"))
    cluster.kill_node(HEAD)
    assert cluster.states() == {}
    cluster.restore(HEAD)
    assert cluster.jobs() == []
    assert sleepers(cluster, "head") == []
    cluster.wait_idle()


def test_two_clusters_do_not_meet_and_nothing_is_left_of_one(cluster, tmp_path):
    """A cluster beside another has its own jobs; at its end no process or shared memory stays."""
    memory = shared_memory()
    submit(cluster, "env", "MARKER=here", "sleep", "600", wait=False)
    with RayCluster(tmp_path, num_nodes=1) as other:
        submit(other, "env", "MARKER=there", "sleep", "600", wait=False)
        until(lambda: sleepers(other, "there"))
        assert len(other.jobs()) == 1
        assert sleepers(other, "here") == []
        left = [other.holder(LOGIN), *other.processes("")]
    assert not any(lives(process) for process in left)
    assert shared_memory() <= memory
    until(lambda: sleepers(cluster, "here"))


@pytest.mark.usefixtures("_ray")
def test_by_hand(tmp_path):
    """A cluster that a shell command started stays until another one ends it.

    Its jobs find the variables that it was given, and not those that say where it was started. It
    asks for no token, even if its owner has one.
    """
    token = tmp_path / "home/.ray/auth_token"
    token.parent.mkdir(parents=True)
    token.write_text("0" * 64)
    env = {**os.environ, "GETIACTION_RUN_DIR": "/nowhere", "HOME": f"{tmp_path}/home"}

    def by_hand(*words: str) -> str:
        command = [sys.executable, ray_cluster.__file__, *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout

    by_hand("up", str(tmp_path), "--nodes=1", "--num-cpus=3", "--setting", "RAY_COLOUR=blue")
    try:
        assert by_hand("on", str(tmp_path), "n1", "--", "hostname") == "n1\n"
        status = by_hand("status", str(tmp_path))
        assert status.count("ALIVE") == 2
        assert "CPU: 3.0" in status
        address = RayCluster.at(tmp_path).address
        job = (*RAY, "job", "submit", "--address", address, "--entrypoint-num-cpus=1", "--", "env")
        said = by_hand("login", str(tmp_path), "--", *job).splitlines()
        assert "RAY_COLOUR=blue" in said
        assert not [line for line in said if line.startswith("GETIACTION_")]
        holder = RayCluster.at(tmp_path).holder(LOGIN)
    finally:
        by_hand("down", str(tmp_path))
    assert not lives(holder)
