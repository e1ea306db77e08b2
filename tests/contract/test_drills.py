"""Fault drills on a real SLURM: each run ends with the weights of one that nothing happened to."""

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters.slurm import has_cgroups
from drill import LIMIT_SECONDS, assert_same

pytestmark = [
    pytest.mark.parametrize("cluster", ["slurm"], indirect=True),
    pytest.mark.timeout(LIMIT_SECONDS + 60),
]


def test_time_limit_reached_twice(drill, undisturbed):
    """SLURM warns; the run saves, is requeued and resumes at the same step, twice."""
    config = drill.directory / "cluster_configs/slurm.yaml"
    config.write_text(config.read_text().replace("poll_seconds: 1", "warning_seconds: 10"))
    # SLURM may warn half a minute early; a busy machine must have begun to train by then.
    drill.start("--time", "2", pace_seconds=9)
    drill.await_attempt(2)
    trained = drill.finish()
    for number in (0, 1):
        ended = drill.record(f"attempt_{number}")
        assert (ended["state"], ended["cause"], ended["goes_on"]) == (
            "INTERRUPTED",
            "time limit",
            True,
        )
        resumed = drill.record(f"attempt_{number + 1}")
        assert resumed["first_step"] == ended["last_step"] > ended["first_step"]
    assert_same(trained, undisturbed)


def test_requeue_then_preemption_then_a_killed_rank(drill, undisturbed):
    """One after the other: each costs one attempt, and no step more than it must.

    ``scontrol requeue`` and a job in a partition of higher priority, which takes the nodes, send
    SIGTERM: the run saves, and SLURM starts it again. SIGKILL of rank 1 in a step costs what came
    after the newest checkpoint, and one crash of the budget.
    """
    slurm = drill.cluster.cluster
    drill.save_often()
    drill.start("--partition", "low", "--max-crashes", "1", pace_seconds=1)
    slurm.run("scontrol", "requeue", drill.job_id)
    drill.await_training(1)
    nodes = ["--partition=high", "--nodes=4", "--ntasks-per-node=4", "--exclusive"]
    slurm.run("sbatch", *nodes, "--output=/dev/null", "--wrap=srun sleep 1")
    drill.await_training(2)
    drill.await_commit(2)
    (victim,) = (
        process
        for process in drill.cluster.processes(drill.run)
        if process.environ().get("RANK") == "1"
        and "getiaction_launch.worker.worker" in process.cmdline()
    )
    victim.kill()
    drill.await_attempt(3)
    trained = drill.finish()
    requeued, preempted, killed, last = (drill.record(f"attempt_{n}") for n in range(4))
    assert requeued["state"] == preempted["state"] == "INTERRUPTED"
    assert preempted["cause"] == "preemption"
    assert preempted["first_step"] == requeued["last_step"] > 0
    assert killed["first_step"] == preempted["last_step"] > preempted["first_step"]
    assert (killed["state"], killed["cause"], killed["goes_on"]) == ("FAILED", "crash", True)
    assert "rank 1 on node 1" in killed["reason"]
    assert killed["first_step"] < last["first_step"] <= killed["last_step"]
    assert_same(trained, undisturbed)


def test_lost_nodes(drill, undisturbed):
    """SLURM loses a node, and later another: each time, the run restarts elsewhere.

    It continues from the newest checkpoint. First a node's daemon is killed, then one has no power.
    """
    slurm = drill.cluster.cluster
    drill.save_often()
    drill.start(pace_seconds=4)  # SLURM takes half a minute to miss a node
    lost = []

    def lose(kill: Callable[[str], None]) -> None:
        nodes = slurm.run("squeue", "--noheader", "--format=%N", "--jobs", drill.job_id).stdout
        _, name = slurm.run("scontrol", "show", "hostnames", nodes.strip()).stdout.split()
        lost.append(name)
        kill(name)

    try:
        drill.await_commit()
        lose(slurm.kill_slurmd)
        drill.await_training(1)
        drill.await_commit(1)
        lose(slurm.kill_node)
        drill.await_attempt(2)
        trained = drill.finish()
    finally:
        for name in lost:
            slurm.restore(name)
    records = [drill.record(f"attempt_{number}") for number in range(3)]
    for ended, resumed in itertools.pairwise(records):
        assert (ended["cause"], ended["goes_on"]) == ("node failure", True)
        assert resumed["first_step"] > ended["first_step"]
    assert len(set(lost)) == 2
    assert_same(trained, undisturbed)


def test_successor_where_requeues_are_forbidden(drill, undisturbed):
    """Without a working ``scontrol`` on the nodes another job follows, under the same run."""
    tools = drill.directory / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text("#!/bin/sh\necho forbidden here >&2; exit 1\n")
    (tools / "scontrol").chmod(0o755)
    config = drill.directory / "cluster_configs/slurm.yaml"
    setup = f"poll_seconds: 1, setup: ['export PATH={tools}:$PATH']"
    config.write_text(config.read_text().replace("poll_seconds: 1", setup))
    drill.start()
    drill.cluster.cluster.run("scancel", "--signal=USR2", drill.job_id)
    drill.await_attempt(1)
    trained = drill.finish()
    ended, resumed, job = (drill.record(name) for name in ("attempt_0", "attempt_1", "job"))
    assert (ended["cause"], ended["goes_on"]) == ("time limit", True)
    assert resumed["first_step"] == ended["last_step"] > 0
    assert job["previous_job_ids"] == [drill.job_id] != [job["job_id"]]
    assert_same(trained, undisturbed)


def test_scancel_is_final(drill):
    """A run that is cancelled by ``scancel`` saves, is cancelled and is never requeued."""
    drill.start()
    drill.cluster.cluster.run("scancel", drill.job_id)
    drill.cluster.cluster.wait_idle()
    assert drill.state() == "CANCELLED"
    assert drill.launch("logs", "-f", str(drill.run)).returncode == 0  # and nothing is waited for
    assert not drill.record("attempt_1")


def test_time_limit_beyond_the_budget_ends_with_its_own_exit_code(
    cluster, getiaction_launch, script, tmp_path, until
):
    """``--max-interruptions 0``: the run is interrupted, can be resumed, and exits with 12."""
    name = script("open('up', 'w')\ntime.sleep(600)")
    words = ["--cluster", "slurm", "--max-interruptions", "0", "--wait", name]
    with subprocess.Popen(cluster.command(*words), cwd=tmp_path, stdout=subprocess.PIPE) as waiting:
        until((tmp_path / "up").exists)
        (job_id,) = cluster.cluster.run("squeue", "--noheader", "--format=%i").stdout.split()
        cluster.cluster.run("scancel", "--signal=USR2", job_id)
        said, _ = waiting.communicate(timeout=LIMIT_SECONDS)
    assert waiting.returncode == 12
    assert b"its time limit was near" in said
    explained = json.loads(getiaction_launch("why", "--json", "@last").stdout)
    assert (explained["category"], explained["rank"]) == ("time limit", None)
    (tmp_path / "train.py").write_text("pass")
    assert getiaction_launch("resume", "--code", "now", "@last").returncode == 0
    until(lambda: '"SUCCEEDED"' in getiaction_launch("status", "--json", "@last").stdout)


@pytest.mark.skipif(not has_cgroups(), reason="without cgroups SLURM cannot limit memory")
@pytest.mark.parametrize(
    ("rank", "victim"), [(1, ""), (1, "/proc/{os.getppid()}"), (0, "/proc/{os.getppid()}")]
)
def test_memory_beyond_the_limit_is_named(cluster, getiaction_launch, script, rank, victim):
    """Whether the kernel kills the worker or its node's process, and whoever is left to say so."""
    prefer = f"open(f'{victim}/oom_score_adj', 'w').write('1000'); " if victim else ""
    name = script(f"if rank == '{rank}': {prefer}hog = b'x' * (600 << 20)\ntime.sleep(600)")
    words = ["--cluster", "slurm", "--nodes", "2", "--mem", "300M", "--wait", name]
    result = getiaction_launch(*words)
    assert result.returncode == 13, result.stdout
    assert ("rank 1 on node 1" in result.stdout) is (not victim)
    assert "memory limit" in result.stdout
    explained = json.loads(getiaction_launch("why", "--json", "@last").stdout)
    assert explained["category"] == "host memory"
    assert "resume --mem 600M" in explained["next"][0]["command"]
    # The run's end is recorded before its job has left the queue; it must not stay there.
    cluster.cluster.wait_idle()


def test_node_whose_name_others_cannot_resolve_is_reached_by_its_address(
    cluster, getiaction_launch, script, tmp_path
):
    """All workers get the address that every node could reach, and the nodes' logs say which."""
    slurm = cluster.cluster
    hosts = (slurm.directory / "hosts").read_text().splitlines(keepends=True)
    (tmp_path / "hosts").write_text("".join(line for line in hosts if " n1\n" not in line))
    code = (
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "print('MASTER', os.environ['MASTER_ADDR'])"
    )
    words = ["--cluster", "slurm", "--nodes", "2", "-w", "n[1-2]", "--wait", script(code)]
    slurm.on("n2", "mount", "--bind", str(tmp_path / "hosts"), "/etc/hosts")
    try:
        result = getiaction_launch(*words)
    finally:
        slurm.on("n2", "umount", "/etc/hosts")
    assert result.returncode == 0, result.stdout
    logs = getiaction_launch("logs", "@last").stdout
    assert logs.count(f"MASTER {slurm.address_of('n1')}\n") == 2
    (said,) = (tmp_path / RUN / "launch/slurm").glob("*_1_log.out")
    assert f"rank 0 is at {slurm.address_of('n1')}:" in said.read_text()


@pytest.fixture
def start_script(cluster, script, tmp_path, until):
    """Start a script that sleeps on two nodes, with ``--wait``; return its job's id when it does.

    Its workers write a file for each attempt. The command's output is in ``waiting.out``.
    """
    waiters = []

    def start(*words: str) -> tuple[subprocess.Popen, str]:
        name = script(
            "open(f'up_{rank}_' + os.environ['GETIACTION_LAUNCH_ATTEMPT'], 'w')\ntime.sleep(600)"
        )
        command = cluster.command("--cluster", "slurm", "--nodes", "2", *words, "--wait", name)
        with (tmp_path / "waiting.out").open("w") as out:
            waiters.append(subprocess.Popen(command, cwd=tmp_path, stdout=out))
        until(lambda: has_begun(tmp_path, 0))
        job = json.loads((tmp_path / RUN / "launch/job.json").read_text())
        return waiters[0], job["job_id"]

    yield start
    for waiter in waiters:
        waiter.kill()
        waiter.wait()


RUN = "experiments/train/version_0"


def has_begun(directory: Path, attempt: int) -> bool:
    """Whether both workers of ``start_script`` are there."""
    return all((directory / f"up_{rank}_{attempt}").exists() for rank in (0, 1))


def test_node_failure_beyond_the_budget_is_the_end(cluster, start_script, tmp_path, until):
    """SLURM starts the job of a lost node again whatever we say; that job ends, and the run too."""
    waiting, job_id = start_script("--max-node-failures", "0")
    slurm = cluster.cluster
    nodes = slurm.run("squeue", "--noheader", "--format=%N", "--jobs", job_id).stdout
    _, name = slurm.run("scontrol", "show", "hostnames", nodes.strip()).stdout.split()
    slurm.kill_node(name)
    try:
        assert waiting.wait(LIMIT_SECONDS) == 14
        until(lambda: not slurm.run("squeue", "--noheader").stdout, LIMIT_SECONDS)
    finally:
        slurm.restore(name)
    assert "train/version_0 FAILED" in (tmp_path / "waiting.out").read_text()
    assert not (tmp_path / "up_0_1").exists()


def test_killed_node_task_counts_as_a_node_failure(cluster, start_script, tmp_path, until):
    """SIGKILL of one node's task takes its worker along; what it leaves begins again, so often."""
    waiting, _ = start_script("--max-node-failures", "1")
    for attempt in (0, 1):
        until(lambda: has_begun(tmp_path, attempt), LIMIT_SECONDS)  # noqa: B023 - called at once
        (task,) = (
            process
            for process in cluster.processes(tmp_path / RUN)
            if "submitit.core._submit" in process.cmdline()
            and process.environ()["SLURM_PROCID"] == "1"
        )
        task.kill()
    assert waiting.wait(LIMIT_SECONDS) == 14
    assert "restarts.node_failures=1 is used up" in (tmp_path / "waiting.out").read_text()


def test_cancel_ends_a_job_that_is_just_requeued(cluster, start_script, tmp_path, until):
    """If a job is cancelled at the moment of its requeue, none is in the queue afterwards."""
    tools = tmp_path / "tools"
    tools.mkdir()
    # What asks SLURM to requeue the job is as slow as the test likes.
    (tools / "scontrol").write_text(
        f"#!/bin/bash\nPATH=${{PATH#{tools}:}}\n"
        "if [ $1 = requeue ]; then\n"
        f"  trap '' TERM; touch {tmp_path}/asks\n"
        f"  while [ ! -e {tmp_path}/go ]; do sleep 0.1; done\n"
        "fi\n"
        'exec scontrol "$@"\n'
    )
    (tools / "scontrol").chmod(0o755)
    config = tmp_path / "cluster_configs/slurm.yaml"
    setup = f"poll_seconds: 1, setup: ['export PATH={tools}:$PATH']"
    config.write_text(config.read_text().replace("poll_seconds: 1", setup))
    waiting, job_id = start_script()
    slurm = cluster.cluster
    slurm.run("scancel", "--signal=USR2", job_id)
    until((tmp_path / "asks").exists)
    with subprocess.Popen(cluster.command("cancel", "@last"), cwd=tmp_path) as cancelling:
        until(lambda: "COMPLETING" in slurm.run("squeue", "--noheader", "--format=%T").stdout)
        (tmp_path / "go").touch()
        assert cancelling.wait(LIMIT_SECONDS) == 0
    assert not slurm.run("squeue", "--noheader").stdout
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", job_id).stdout
    assert waiting.wait(LIMIT_SECONDS) == 11
    (said,) = (tmp_path / RUN / "launch/slurm").glob("*_0_log.out")
    assert said.read_text().count("Starting with JobEnvironment") == 1  # submitit's first words


def test_requeue_of_a_finished_run_changes_nothing(
    cluster, getiaction_launch, script, tmp_path, until
):
    """An administrator may start any job again; this one looks, and ends well."""
    name = script("open('starts', 'a').write(rank)")
    assert getiaction_launch("--cluster", "slurm", "--wait", name).returncode == 0
    records = {path: path.read_bytes() for path in (tmp_path / RUN / "launch").glob("*.json")}
    slurm = cluster.cluster
    job_id = json.loads(records[tmp_path / RUN / "launch/job.json"])["job_id"]
    slurm.wait_idle()
    slurm.run("scontrol", "requeue", job_id)
    words = "squeue", "--noheader", "--states=all", "--jobs", job_id, "--Format=State,RestartCnt"
    until(lambda: slurm.run(*words).stdout.split() == ["COMPLETED", "1"])
    assert (tmp_path / "starts").read_text() == "0"
    assert '"SUCCEEDED"' in getiaction_launch("status", "--json", "@last").stdout
    assert {path: path.read_bytes() for path in records} == records
