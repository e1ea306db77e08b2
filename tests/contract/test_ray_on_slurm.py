"""A Ray cluster inside a job of a real SLURM: who finds it, who does not, and how it ends."""

import contextlib
import json
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest
from clusters import ordinary_user
from drill import LIMIT_SECONDS, PACE, assert_same

pytestmark = [
    pytest.mark.usefixtures("_ray"),
    pytest.mark.parametrize("cluster", ["slurm"], indirect=True),
    pytest.mark.timeout(LIMIT_SECONDS + 60),
]

# Until the other run is up too, whose cluster lies on the same nodes.
MEET = """
import ray
from pathlib import Path
ray.init(log_to_driver=False)
Path(os.environ["GETIACTION_RUN_DIR"], "up_" + rank).touch()
while len(list(Path(os.environ["GETIACTION_RUN_DIR"]).parent.glob("*/up_*"))) < 4:
    time.sleep(0.05)
nodes = sum(node["Alive"] for node in ray.nodes())

@ray.remote(scheduling_strategy="SPREAD")
def place():
    time.sleep(0.5)
    return os.environ["SLURMD_NODENAME"], os.environ["GETIACTION_RUN_DIR"]

places, runs = map(set, zip(*ray.get([place.remote() for _ in range(4)])))
print(nodes, sorted(places), runs == {os.environ["GETIACTION_RUN_DIR"]})
"""
NAP = """
import ray
ray.init(log_to_driver=False)

@ray.remote(num_cpus=0)
def nap():
    open("napping_" + rank, "w")
    time.sleep(600)

ray.get(nap.remote())
"""
# Without its actor, no step is trained.
PACE_WITH_RAY = f"""{PACE}
import ray

class Echo:
    def say(self, word):
        return word

class Pace(Pace):
    def on_fit_start(self, *_):
        ray.init(log_to_driver=False)
        self.echo = ray.remote(num_cpus=0)(Echo).remote()

    def on_train_batch_start(self, *batch):
        assert ray.get(self.echo.say.remote("hello")) == "hello"
        super().on_train_batch_start(*batch)
"""


@pytest.fixture
def cluster(cluster):
    """The same SLURM, whose jobs have Ray."""
    cluster.have_ray()
    return cluster


@pytest.fixture(autouse=True)
def place(cluster, monkeypatch):
    """Where Ray's own files go: tmp_path is too long for its sockets."""
    del cluster
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as directory:
        ordinary_user.own(Path(directory))
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setenv("RAY_worker_niceness", "0")  # they would give way to other tests
        yield Path(directory)


@pytest.fixture
def assert_nothing_left(cluster, place):
    """No process on any node, no file of Ray's, no token."""

    def check(run: Path) -> None:
        cluster.cluster.wait_idle()
        assert cluster.processes(run) == []
        assert cluster.cluster.processes(str(place)) == []
        assert list(place.glob("ray-job-*")) == []
        assert list((run / "launch").glob("ray*")) == []

    return check


def test_two_runs_on_the_same_nodes_have_a_cluster_each(
    cluster, getiaction_launch, script, tmp_path, assert_nothing_left
):
    """Each run's workers find two nodes, both its own; also where sbatch got a dry run's script."""
    name = script(MEET)
    words = ["--cluster", cluster.name, "--nodes", "2", "-w", "n[1-2]"]
    printed = getiaction_launch("--dry-run", *words, name).stdout
    (tmp_path / "by_hand.sh").write_text(printed[printed.index("#!/bin/bash") :])
    by_hand = cluster.typed("sbatch", "--wait", "by_hand.sh")
    waiting = [
        subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)
        for command in (cluster.command(*words, "--wait", name), by_hand)
    ]
    said = [process.communicate(timeout=LIMIT_SECONDS)[1] for process in waiting]
    assert [process.returncode for process in waiting] == [0, 0], said
    for run in (tmp_path / "experiments/train").iterdir():
        logs = getiaction_launch("logs", str(run)).stdout
        for rank in range(2):
            assert f"[rank {rank}] 2 ['n1', 'n2'] True" in logs
        assert_nothing_left(run)


def test_warning_reaches_the_workers_past_ray(drill, undisturbed, until, assert_nothing_left):
    """Signals that Ray's daemons would die of leave it whole until the workers have saved."""
    (drill.directory / "pace.py").write_text(PACE_WITH_RAY)
    drill.start()
    for process in drill.cluster.processes(drill.run):
        # As SLURM does where it has no control groups. An idle one may end at any time.
        with contextlib.suppress(psutil.Error):
            if "submitit.core._submit" in process.cmdline():
                continue  # a warning for the run, which follows below
            if "getiaction_launch.worker.worker" not in process.cmdline():
                process.send_signal(signal.SIGUSR2)
    step = drill.step()
    # Long enough to notice that a daemon has died.
    until(lambda: drill.step() >= step + 6, LIMIT_SECONDS)
    drill.cluster.cluster.run("scancel", "--signal=USR2", drill.job_id)
    drill.await_attempt(1)
    trained = drill.finish()
    ended, resumed = drill.record("attempt_0"), drill.record("attempt_1")
    assert (ended["state"], ended["cause"]) == ("INTERRUPTED", "time limit")
    assert resumed["first_step"] == ended["last_step"] >= step + 6
    assert not drill.record("attempt_2")
    assert_same(trained, undisturbed)
    assert_nothing_left(drill.run)


def test_dead_raylet_costs_a_node_failure(  # noqa: PLR0917 - fixtures
    cluster, getiaction_launch, script, until, tmp_path, assert_nothing_left
):
    """Whatever the workers were at, the run starts again within its budget, with another Ray."""
    name = script(f"if os.environ['GETIACTION_LAUNCH_ATTEMPT'] == '1':\n    sys.exit()\n{NAP}")
    words = ["--cluster", "ray-on-slurm", "--nodes", "2", "--max-node-failures", "1", "--parsable"]
    run = Path(getiaction_launch(*words, name).stdout.strip())
    until(lambda: (tmp_path / "napping_0").exists() and (tmp_path / "napping_1").exists())
    (victim,) = (
        process
        for process in cluster.cluster.processes(str(run), "n2")
        if Path(process.cmdline()[0]).name == "raylet"
    )
    victim.kill()
    until((run / "launch/done.json").exists)
    ended = json.loads((run / "launch/attempt_0.json").read_text())
    assert (ended["state"], ended["cause"]) == ("FAILED", "node failure")
    assert "Ray has died on n2: see " in ended["reason"]
    assert_nothing_left(run)


def test_cancel_ends_ray_too(  # noqa: PLR0917 - fixtures
    getiaction_launch, script, until, tmp_path, place, assert_nothing_left
):
    """Ray's tasks, which get no signal, end too, and files of a killed job are removed."""
    killed = place / "ray-job-killed"
    killed.mkdir()
    ordinary_user.own(killed)
    name = script(NAP)
    result = getiaction_launch("--cluster", "ray-on-slurm", "--nodes", "2", "--parsable", name)
    run = Path(result.stdout.strip())
    until(lambda: (tmp_path / "napping_0").exists() and (tmp_path / "napping_1").exists())
    assert getiaction_launch("cancel", str(run)).returncode == 0
    assert_nothing_left(run)
