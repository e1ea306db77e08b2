"""The cluster for tests is a real one: its nodes, its faults, its end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from clusters import ordinary_user, slurm
from clusters.cluster import LOGIN, ClusterError, lives
from clusters.slurm import SlurmCluster

LIMIT_SECONDS = 60


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fail after the limit."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"nothing came of it in {LIMIT_SECONDS} s"
        time.sleep(0.05)


def submit(cluster: SlurmCluster, script: str, *options: str) -> str:
    """Submit a line of shell; return the job's id."""
    words = ("sbatch", "--parsable", "--output=/dev/null", *options, "--wrap", script)
    return cluster.run(*words).stdout.strip()


def sleeping(cluster: SlurmCluster, marker: str) -> str:
    """Start a job of two nodes that runs until it is cancelled; return its id once it runs."""
    job = submit(cluster, f"srun env MARKER={marker} sleep 600", "--nodes=2")
    until(lambda: len([p for p in cluster.processes(marker) if p.name() == "sleep"]) == 2)
    return job


def state(cluster: SlurmCluster, job: str) -> str:
    """The job's state in ``squeue``; empty when it has none left."""
    return cluster.run("squeue", "--noheader", "--format=%T", f"--jobs={job}").stdout.strip()


@pytest.fixture
def cluster(slurm_cluster: SlurmCluster):
    """The shared cluster, handed on without jobs and with all nodes."""
    yield slurm_cluster
    slurm_cluster.run("scancel", "--full", "--user=root")
    for node in slurm_cluster.nodes:
        if slurm_cluster.states()[node] not in ("idle", "alloc", "mix", "comp"):
            slurm_cluster.restore(node)
    slurm_cluster.wait_idle()


def test_nodes_are_machines_of_their_own(cluster):
    """Tasks on two nodes have two host names, and each node can reach the others by name."""
    hosts = cluster.run("srun", "--nodes=2", "hostname").stdout.split()
    assert len(set(hosts)) == 2
    cluster.on("n1", "getent", "hosts", "n4")
    assert cluster.on("n1", "hostname").stdout == "n1\n"
    assert "slurmd" in cluster.on("n1", "ps", "ax").stdout
    assert "slurmctld" not in cluster.on("n1", "ps", "ax").stdout


def test_commands_of_the_login_node_keep_directory_and_environment(cluster, tmp_path):
    """A command on the login node starts where its caller is, with the caller's variables."""
    command = [*cluster.login, "sh", "-c", 'pwd; echo "$COLOUR"; hostname']
    env = {**os.environ, "COLOUR": "blue"}
    result = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [str(tmp_path), "blue", "login"]


def test_an_ordinary_user_submits_jobs(cluster, tmp_path):
    """What a user types on the login node runs as that user there, and so do the user's jobs."""
    ordinary_user.own(tmp_path)
    command = [*cluster.login_of_user(tmp_path), "sh", "-c", "id -un; pwd; srun id -un; pwd >x"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["nobody", str(tmp_path), "nobody"]
    assert (tmp_path / "x").owner() == "nobody"


def test_jobs_get_numbers_of_gpus(cluster):
    """A job that asks for GPUs gets their numbers."""
    show = 'echo "$CUDA_VISIBLE_DEVICES"'
    assert cluster.run("srun", "--gpus-per-node=2", "sh", "-c", show).stdout == "0,1\n"


def test_a_node_local_directory_is_not_shared(cluster):
    """What one node writes into its local directory, no other node and no login node sees."""
    cluster.on("n1", "touch", str(cluster.node_local / "note"))
    assert cluster.on("n1", "ls", str(cluster.node_local)).stdout == "note\n"
    assert cluster.on("n2", "ls", str(cluster.node_local)).stdout == ""
    assert cluster.run("ls", str(cluster.node_local)).stdout == ""


def test_accounting_remembers_jobs(cluster):
    """With a database, sacct knows how a job ended."""
    job = submit(cluster, "exit 3")
    words = ("sacct", "--noheader", "-X", "--parsable2", "--format=State,ExitCode", f"--jobs={job}")
    until(lambda: cluster.run(*words).stdout == "FAILED|3:0\n")


def test_without_accounting_sacct_fails(slurm_without_accounting):
    """Without a database jobs run, and sacct fails."""
    cluster = slurm_without_accounting
    assert len(set(cluster.run("srun", "--nodes=2", "hostname").stdout.split())) == 2
    assert "disabled" in cluster.run("sacct", check=False).stderr


@pytest.mark.skipif(not slurm.has_cgroups(), reason="this kernel has no cgroups v1")
def test_memory_is_held_to(cluster):
    """A job that takes more memory than it asked for is ended by the kernel."""
    hog = f"srun {sys.executable} -c 'bytearray(500 << 20)'"
    job = submit(cluster, hog, "--mem=50M")
    words = ("sacct", "--noheader", "--format=State%20", f"--jobs={job}.0")
    until(lambda: "OUT_OF_MEMORY" in cluster.run(*words).stdout)


def test_a_high_job_preempts_a_low_one(cluster, tmp_path):
    """A job of partition low gets SIGTERM and is requeued when one of high wants all nodes."""
    out = tmp_path / "out"
    task = tmp_path / "task.sh"
    task.write_text("trap 'echo warned; exit' TERM; echo started; sleep 600 & wait\n")
    every_node = ("--nodes=4", "--exclusive")
    submit(cluster, f"srun sh {task}", "--partition=low", *every_node, f"--output={out}")
    until(lambda: out.exists() and "started" in out.read_text())
    cluster.run("srun", "--partition=high", *every_node, "hostname")
    assert "warned" in out.read_text()


def test_a_killed_daemon_comes_back(cluster):
    """Jobs survive the SIGKILL of their node's slurmd, and keep running when it is back."""
    job = sleeping(cluster, "killed_daemon")
    victim = next(n for n in cluster.nodes if cluster.processes("killed_daemon", n))
    cluster.kill_slurmd(victim)
    assert "slurmd -Nn" not in cluster.on(victim, "ps", "ax").stdout
    assert cluster.processes("killed_daemon", victim)
    cluster.restore(victim)
    assert "slurmd -Nn" in cluster.on(victim, "ps", "ax").stdout
    assert state(cluster, job) == "RUNNING"


def test_a_node_loses_power_and_comes_back(cluster):
    """A node without power runs nothing; with power again it takes jobs, and has the old name."""
    with subprocess.Popen([*cluster.inside("n3"), "sleep", "600"]) as sleeper:
        cluster.kill_node("n3")
        assert sleeper.wait(LIMIT_SECONDS) != 0
    with pytest.raises(ClusterError, match="n3 of the cluster"):
        cluster.on("n3", "true")
    cluster.restore("n3")
    assert cluster.run("srun", "--nodelist=n3", "hostname").stdout == "n3\n"
    cluster.on("n4", "sh", "-c", "getent hosts n3")


def test_two_clusters_do_not_meet(cluster, slurm_without_accounting):
    """Two clusters have the same names and addresses, and each has its own jobs and processes."""
    other = slurm_without_accounting
    sleeping(cluster, "here")
    assert other.run("squeue", "--noheader").stdout == ""
    assert other.processes("here") == []


def test_a_cluster_can_be_stopped_and_started_again(tmp_path, slurm_root):
    """A stopped cluster leaves no process, and nothing of its jobs is there at the next start."""
    cluster = SlurmCluster(tmp_path, num_nodes=2, accounting=False, root=slurm_root)
    with cluster:
        job = sleeping(cluster, "stopped")
        left = cluster.processes("stopped")
        with pytest.raises(ClusterError, match="is up"):
            SlurmCluster.at(tmp_path).start()
    assert not any(process.is_running() for process in left)
    assert cluster.holder(LOGIN) is None
    with SlurmCluster.at(tmp_path) as again:
        assert again.nodes == ["n1", "n2"]
        assert job not in again.run("squeue", "--noheader").stdout.split()


@pytest.mark.usefixtures("slurm_root")
def test_no_cluster_survives_its_owner(tmp_path):
    """SIGKILL of the process that started a cluster ends all processes of the cluster."""
    code = (
        "import sys, signal; from pathlib import Path; from clusters.slurm import SlurmCluster\n"
        f"SlurmCluster(Path({str(tmp_path)!r}), num_nodes=1, accounting=False).start()\n"
        "print('up', flush=True); signal.pause()"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(slurm.__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) as owner:
        assert owner.stdout.readline() == b"up\n"
        cluster = SlurmCluster.at(tmp_path)
        names = (LOGIN, "n1")
        holders = [cluster.holder(name) for name in names]
        assert all(holders)
        owner.send_signal(signal.SIGKILL)
    until(lambda: not any(lives(holder) for holder in holders))


def test_by_hand(tmp_path, slurm_root):
    """A cluster that a shell command started stays until another one ends it."""

    def by_hand(*words: str) -> str:
        command = [sys.executable, slurm.__file__, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    options = ["--no-accounting", f"--root={slurm_root}"]
    by_hand("up", str(tmp_path), "--nodes=2", *options, "--setting", "KillWait=7")
    try:
        assert "n[1-2]" in by_hand("status", str(tmp_path))
        assert "= 7 sec" in by_hand("login", str(tmp_path), "--", "scontrol", "show", "config")
        assert by_hand("on", str(tmp_path), "n2", "--", "hostname") == "n2\n"
        holders = [SlurmCluster.at(tmp_path).holder(name) for name in (LOGIN, "n1", "n2")]
    finally:
        by_hand("down", str(tmp_path))
    assert not any(psutil.pid_exists(holder.pid) and lives(holder) for holder in holders)
    assert by_hand("run", "--nodes=1", *options, "--", "srun", "hostname") == "n1\n"
