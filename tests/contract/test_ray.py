"""What is Ray's own: jobs inside of jobs, shipped code, resources, faults, and private clusters."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from drill import LIMIT_SECONDS, assert_same, status_of

pytestmark = [
    pytest.mark.parametrize("cluster", ["ray"], indirect=True),
    pytest.mark.timeout(LIMIT_SECONDS + 60),
]
LAUNCH = [sys.executable, "-m", "getiaction_launch.cli"]
HELLO = "import mine\nprint(mine.GREETING, 'from', os.getcwd())"
DRIVER = """
import sys

import ray
from getiaction_launch.launch import submit as launch

ray.init()
environment = "--runtime-env", {"env_vars": {"GREETING": "hello"}}
plan, backend = launch.prepare(
    script=["train.py"],
    cluster="ray",
    nodes=2,
    gpus_per_node=0,
    storage_root=sys.argv[1],
    settings={"backend.init_args.runtime_env": environment},
)
print("state:", launch.read_status(launch.submit(plan, backend)).state.value)
"""


@pytest.fixture
def ray(cluster, tmp_path):
    """Ray's own command, typed where there is no Ray."""

    def run(*words: str) -> str:
        result = subprocess.run(
            cluster.typed(str(Path(sys.executable).with_name("ray")), *words),
            cwd=tmp_path,
            env={**os.environ, "RAY_ADDRESS": cluster.cluster.address},
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        return result.stdout + result.stderr

    return run


@pytest.fixture
def configured(cluster):
    """Write settings of the backend into the cluster config."""

    def write(settings: str) -> None:
        text = cluster.config.read_text()
        cluster.config.write_text(text.replace("init_args: {", f"init_args: {{{settings}, "))

    return write


def find(drill, word: str) -> psutil.Process:
    """One of the run's processes on the cluster's nodes."""
    return next(p for p in drill.cluster.processes(drill.run) if word in " ".join(p.cmdline()))


def test_ray_lists_the_run_and_where_it_lies(getiaction_launch, cluster, script, tmp_path):
    """The job has the user's name for it, or the run's, and metadata that lead to the run."""
    name = script("pass")
    words = ["--cluster", "ray", "--ray", "entrypoint_num_cpus=0.5", "--wait"]
    for own_name in (["--submission-id", f"mine-{tmp_path.name}"], []):
        result = getiaction_launch(*words, *own_name, name)
        assert result.returncode == 0, result.stderr
    cluster.cluster.wait_idle()
    runs = tmp_path / "experiments/train"
    jobs = {
        job["metadata"]["directory"]: job
        for job in cluster.cluster.jobs()
        if "directory" in (job["metadata"] or {})
    }
    assert jobs[str(runs / "version_0")]["submission_id"] == f"mine-{tmp_path.name}"
    assert jobs[str(runs / "version_1")]["submission_id"].startswith("train-version_1-")
    assert jobs[str(runs / "version_1")]["metadata"]["run"] == "train/version_1"
    assert {jobs[str(run)]["status"] for run in runs.iterdir()} == {"SUCCEEDED"}


@pytest.mark.parametrize("inner", ["command", "python"])
def test_inside_a_job_no_other_job_is_submitted(  # noqa: PLR0917 - fixtures
    inner, ray, getiaction_launch, cluster, script, tmp_path
):
    """The launcher's command, or its Python calls after ``ray.init``: the run is that very job.

    Its actors have the run's own ``runtime_env``, too.
    """
    script("print(os.environ['GREETING'])")
    (tmp_path / "driver.py").write_text(DRIVER)
    options = ["--nodes", "2", "--gpus-per-node", "0", "--storage-root", str(tmp_path)]
    environment = ["--runtime-env-json", '{"env_vars": {"GREETING": "hello"}}']
    words = [*LAUNCH, "--cluster", "ray", *options, *environment, "train.py"]
    if inner == "python":
        words = [sys.executable, "driver.py", str(tmp_path)]
    before = len(cluster.cluster.jobs())
    said = ray("job", "submit", "--working-dir", ".", "--", *words)
    assert "succeeded" in said, said
    assert len(cluster.cluster.jobs()) == before + 1
    status = status_of(getiaction_launch)
    assert (status["run"], status["state"]) == ("train/version_0", "SUCCEEDED"), said
    assert "[rank 1] hello" in getiaction_launch("logs", "@last").stdout


def test_run_inside_a_copy_that_ray_deletes_is_refused(ray, script):
    """A job's working directory is a copy; what would be written there would be lost."""
    script("pass")
    words = ["--cluster", "ray", "--gpus-per-node", "0", "train.py"]
    said = ray("job", "submit", "--working-dir", ".", "--", *LAUNCH, *words)
    assert "will delete after it" in said
    assert "--storage-root" in said


def test_run_inside_a_user_s_job_is_cancelled_alone(  # noqa: PLR0917 - fixtures
    ray, getiaction_launch, cluster, script, tmp_path, until
):
    """``cancel`` ends the run, and the user's job continues."""
    script("open(f'{sys.argv[1]}/up', 'w')\ntime.sleep(600)")
    words = ["--cluster", "ray", "--gpus-per-node", "0", "--storage-root", str(tmp_path)]
    inner = " ".join([*LAUNCH, *words, "train.py", str(tmp_path)])
    (tmp_path / "outer.sh").write_text(f"{inner}\necho $? >{tmp_path}/went_on\n")
    ray("job", "submit", "--no-wait", "--working-dir", ".", "--", "sh", "outer.sh")
    until((tmp_path / "up").exists)
    assert status_of(getiaction_launch)["state"] == "RUNNING"
    assert getiaction_launch("cancel", "@last").returncode == 0
    assert status_of(getiaction_launch)["state"] == "CANCELLED"
    assert not cluster.processes(tmp_path / "experiments/train/version_0")
    until(lambda: (tmp_path / "went_on").exists() and (tmp_path / "went_on").read_text() == "11\n")


def test_working_directory_is_shipped(getiaction_launch, script, tmp_path):
    """Nodes that do not see the user's directory run in a copy of it, with the user's modules."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "mine.py").write_text("GREETING = 'hello'")
    (tmp_path / script(HELLO)).rename(source / "train.py")
    words = ["--cluster", "ray", "--nodes", "2", "--working-dir", "source", "--wait"]
    result = getiaction_launch(*words, "source/train.py")
    assert result.returncode == 0, result.stdout + result.stderr
    logs = getiaction_launch("logs", "@last").stdout
    assert logs.count("hello from /tmp/ray/") == 2
    refused = getiaction_launch(*words, str(tmp_path / "elsewhere.py"))
    assert refused.returncode == 2
    (tmp_path / "elsewhere.py").touch()
    refused = getiaction_launch(*words, str(tmp_path / "elsewhere.py"))
    assert (refused.returncode, "is not in the working directory" in refused.stderr) == (3, True)


def test_runtime_env_reaches_the_workers(getiaction_launch, script):
    """``--runtime-env-json`` keeps Ray's meaning, and named variables come from the shell."""
    name = script("print(os.environ.get('COLOR'), os.environ.get('WANDB_MODE'))")
    words = ["--cluster", "ray", "--runtime-env-json", '{"env_vars": {"COLOR": "red"}}', "--wait"]
    assert getiaction_launch(*words, name).returncode == 0
    assert getiaction_launch("logs", "@last").stdout == "red None\n"


def test_resources_that_never_come_are_told(getiaction_launch, cluster, script, configured, until):
    """They are refused; where they may come, ``status`` says what is missing, until a limit."""
    name = script("pass")
    words = ["--cluster", "ray", "--nodes", "4"]
    result = getiaction_launch(*words, name)
    assert (result.returncode, "--nodes 4: this cluster has room for 3" in result.stderr) == (
        3,
        True,
    )
    result = getiaction_launch(*words, "--no-check", name)
    assert result.returncode == 0, result.stderr
    until(lambda: "asks for 4 nodes with 1 CPU each" in status_of(getiaction_launch)["reason"])
    status = status_of(getiaction_launch)
    assert status["state"] == "PENDING"
    assert "only 3 of its 4 nodes are large enough" in status["reason"]
    explained = json.loads(getiaction_launch("why", "--json", "@last").stdout)
    assert "only 3 of its 4 nodes are large enough" in explained["summary"]
    assert explained["scheduler"].startswith("state RUNNING")
    assert getiaction_launch("cancel", "@last").returncode == 0
    assert status_of(getiaction_launch)["state"] == "CANCELLED"
    configured("placement_limit_seconds: 2")
    result = getiaction_launch("--cluster", "ray", "-c", "3", "--no-check", "--wait", name)
    assert result.returncode == 14
    assert (
        "no nodes within placement_limit_seconds=2: it asks for 1 node with 3 CPU;" in result.stdout
    )
    assert not cluster.cluster.placement_groups()


def test_no_cluster_says_how_to_get_one(getiaction_launch, cluster, script):
    """None named and none here: start one; one that does not answer: its address and its port."""
    name = script("pass")
    cluster.config.unlink()
    result = getiaction_launch("--cluster", "ray", name)
    assert result.returncode == 3
    assert "ray start --head" in result.stderr
    assert "--cluster ray-local" in result.stderr
    result = getiaction_launch("--cluster", "ray", "--address", "http://127.0.0.1:9", name)
    assert result.returncode == 5
    assert "http://127.0.0.1:9" in result.stderr


def test_private_cluster_starts_and_ends_with_the_run(getiaction_launch, script, tmp_path, until):
    """``ray-local``: a cluster of the run's own on this machine, of which nothing is left.

    It has the runtime environment and the resources that the run asks for, and room for its nodes.
    """
    (tmp_path / "source").mkdir()
    code = "open(sys.argv[1] + '/' + os.environ['UP'] + rank, 'w').write(os.getcwd())\n"
    code += "time.sleep(600 if len(sys.argv) > 2 else 0)"
    (tmp_path / script(code)).rename(tmp_path / "source/train.py")
    environment = ["--runtime-env-json", '{"env_vars": {"UP": "up_"}}', "--working-dir", "source"]
    train = [*environment, "--nodes", "2", "source/train.py", str(tmp_path)]

    def daemons() -> list[psutil.Process]:
        mine = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(tmp_path) in process.cwd() and "ray" in " ".join(process.cmdline()):
                    mine.append(process)
        return mine

    result = getiaction_launch("--cluster", "ray-local", "--wait", *train)
    assert result.returncode == 0, result.stdout + getiaction_launch("logs", "@last").stdout
    until(lambda: not daemons())
    for rank in range(2):
        assert (tmp_path / f"up_{rank}").read_text().rpartition("/")[2].startswith("_ray_pkg_")
        (tmp_path / f"up_{rank}").unlink()
    (tmp_path / "own.yaml").write_text(
        "backend:\n"
        "  class_path: getiaction_launch.backends.ray.RayBackend\n"
        "  init_args: {address: local, resources: {a100: 0.5}}\n"
    )
    assert getiaction_launch("--cluster", "own.yaml", *train, "long").returncode == 0
    until(lambda: (tmp_path / "up_0").exists() and (tmp_path / "up_1").exists())
    assert any("raylet" in process.name() for process in daemons())
    assert getiaction_launch("cancel", "@last").returncode == 0
    assert status_of(getiaction_launch)["state"] == "CANCELLED"
    until(lambda: not daemons())


def test_killed_processes_cost_one_attempt_each(drill, undisturbed):
    """After SIGKILL of a worker, then of an actor, nothing is left, and the run restarts."""
    drill.save_often()
    drill.start("--max-crashes", "1", pace_seconds=1.5)
    for number, cause in enumerate(["crash", "node failure"]):
        if number:
            drill.await_training(number)
        drill.await_commit(number)
        process = find(drill, "getiaction_launch.worker.worker")
        if cause == "node failure":
            process = find(drill, "getiaction_launch.node.node").parent()
            assert "NodeAgent" in " ".join(process.cmdline())
        driver = find(drill, "backends.ray.driver")
        workers = [worker for worker in drill.cluster.processes(drill.run) if worker != driver]
        process.kill()
        drill.await_attempt(number + 1)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert not alive
        ended, resumed = (drill.record(f"attempt_{n}") for n in (number, number + 1))
        assert ended["cause"] == cause
        assert ended["first_step"] < resumed["first_step"] <= ended["last_step"]
    assert_same(drill.finish(), undisturbed)


@pytest.mark.parametrize("loss", ["raylet", "drain"])
def test_lost_node_costs_one_attempt(drill, undisturbed, loss):
    """Ray on a node dies, or warns that it will: the run restarts on the other nodes.

    Its workers go with a node that dies; where there is a warning, they save first.
    """
    if loss == "raylet":
        drill.save_often()
    drill.start()
    cluster = drill.cluster.cluster
    name = next(node for node in cluster.workers if cluster.processes(str(drill.run), node))
    if loss == "raylet":
        drill.await_commit()
        cluster.kill_raylet(name)
    else:
        cluster.drain(name)
    try:
        drill.await_attempt(1)
        trained = drill.finish()
    finally:
        cluster.restore(name)
    ended, resumed = drill.record("attempt_0"), drill.record("attempt_1")
    assert ended["goes_on"]
    assert ended["cause"] == ("node failure" if loss == "raylet" else "preemption")
    assert 0 < resumed["first_step"] <= ended["last_step"]
    assert loss == "raylet" or resumed["first_step"] == ended["last_step"]
    assert_same(trained, undisturbed)


def test_stopped_job_saves_and_resumes(drill, undisturbed, ray):
    """``ray job stop`` is a stop: workers save at a step boundary, and ``resume`` continues."""
    drill.start()
    ray("job", "stop", drill.job_id)
    assert drill.state() == "INTERRUPTED"
    assert not drill.cluster.processes(drill.run)
    assert drill.launch("resume", str(drill.run)).returncode == 0
    drill.await_attempt(1)
    trained = drill.finish()
    ended, resumed = drill.record("attempt_0"), drill.record("attempt_1")
    assert resumed["first_step"] == ended["last_step"] > 0
    assert_same(trained, undisturbed)


def test_lost_driver_is_told_and_resumed(drill, undisturbed, until):
    """The driver dies with all its actors: no orphans, a failed run that says so, and resume."""
    drill.save_often()
    drill.start()
    drill.await_commit()
    before = drill.cluster.processes(drill.run)
    find(drill, "backends.ray.driver").kill()
    _, alive = psutil.wait_procs(before, timeout=60)
    assert not alive
    until(lambda: drill.state() == "FAILED")
    assert drill.launch("resume", str(drill.run)).returncode == 0
    drill.await_attempt(1)
    trained = drill.finish()
    assert drill.record("attempt_0")["cause"] == "node failure"
    assert drill.record("attempt_1")["first_step"] > 0
    assert_same(trained, undisturbed)
