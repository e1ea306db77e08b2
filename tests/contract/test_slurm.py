"""What only SLURM's users can ask for, and what only SLURM's jobs can suffer, on a real SLURM."""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import ordinary_user

pytestmark = pytest.mark.parametrize("cluster", ["slurm"], indirect=True)

BACKEND = "backend:\n  class_path: getiaction_launch.backends.slurm.SlurmBackend\n"
NAP = "time.sleep(600)"


@pytest.fixture(autouse=True)
def _on_slurm(monkeypatch):
    monkeypatch.setenv("GETIACTION_LAUNCH_CLUSTER", "slurm")


def read_job(run: str) -> dict:
    """What the launcher has written of a run's job."""
    return json.loads(Path(run, "launch/job.json").read_text())


@pytest.fixture
def scontrol(cluster) -> Callable[[str], dict[str, str]]:
    """What SLURM shows of a run's job, key by key."""

    def show(run: str) -> dict[str, str]:
        said = cluster.cluster.run("scontrol", "--oneliner", "show", "job", read_job(run)["job_id"])
        return dict(re.findall(r"(\S+?)=(\S*)", said.stdout))

    return show


@pytest.fixture
def submit(getiaction_launch, script) -> Callable[..., str]:
    """Submit a script that SLURM holds back by default; return the run's directory."""

    def run(*words: str, code: str = NAP, held: bool = True, **env: str) -> str:
        hold = ["--sbatch", "hold="] if held else []
        result = getiaction_launch("--parsable", *hold, *words, script(code), **env)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run


@pytest.fixture
def state(getiaction_launch) -> Callable[[str], dict]:
    """What ``status --json`` says of a run."""
    return lambda run: json.loads(getiaction_launch("status", "--json", run).stdout)


# Flags


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("-p short", {"Partition": "short"}),
        ("-A root", {"Account": "root"}),
        ("-q normal", {"QOS": "normal"}),
        ("-w n3", {"ReqNodeList": "n3"}),
        ("-x n[1-2]", {"ExcNodeList": "n[1-2]"}),
        ("-t 1:30:00", {"TimeLimit": "01:30:00"}),
        ("", {"TimeLimit": "00:10:00", "Requeue": "1", "NumNodes": "1-1"}),
        ("--nodes 3", {"NumNodes": "3-3", "NumTasks": "3", "NtasksPerN:B:S:C": "1:0:*:*"}),
        ("-c 3", {"CPUs/Task": "3"}),
        ("-c 2 --workers-per-node 2", {"CPUs/Task": "4"}),
        ("--mem 2G", {"MinMemoryNode": "2G"}),
        ("--mem 0", {"MinMemoryNode": "0"}),
        ("-t 0", {"TimeLimit": "UNLIMITED"}),
        ("--sbatch comment=null", {"Comment": "null"}),
        ("--gpus-per-node 2", {"TresPerNode": "gres:gpu:2", "CPUs/Task": "1"}),
        ("--mail-user me@lab", {"MailUser": "me@lab", "MailType": "BEGIN,END,FAIL,REQUEUE"}),
        ("--sbatch exclusive= --sbatch comment=hello", {"OverSubscribe": "NO", "Comment": "hello"}),
        ("--name bash", {"JobName": "bash_run"}),
    ],
)
def test_each_flag_has_its_effect(submit, scontrol, words, shown):
    """Read back from SLURM: what was typed is what the job asks for."""
    job = scontrol(submit(*words.split()))
    assert {key: job.get(key) for key in shown} == shown


def test_features_of_nodes_are_asked_for(cluster, submit, scontrol):
    """``-C`` names what the site has given to its nodes; what it has not is refused."""
    feature = "AvailableFeatures=fast", "ActiveFeatures=fast"
    cluster.cluster.run("scontrol", "update", "NodeName=n1", *feature)
    try:
        assert scontrol(submit("-C", "fast"))["Features"] == "fast"
    finally:
        nothing = "AvailableFeatures=", "ActiveFeatures="
        cluster.cluster.run("scontrol", "update", "NodeName=n1", *nothing)


def test_qos_may_allow_more_time_than_its_partition(cluster, submit, scontrol):
    """Where its flags say so, a time limit over the partition's is the user's to ask for."""
    sacctmgr = ("sacctmgr", "--immediate")
    cluster.cluster.run(*sacctmgr, "add", "qos", "long", "flags=PartitionTimeLimit")
    try:
        job = scontrol(submit("-p", "short", "-t", "31", "-q", "long"))
        assert (job["TimeLimit"], job["QOS"]) == ("00:31:00", "long")
    finally:
        cluster.cluster.run(*sacctmgr, "delete", "qos", "long")


def test_flags_of_srun_and_setup_reach_the_step(getiaction_launch, script, tmp_path):
    """Setup lines run before srun, what they export is there in each worker, and so is a flag."""
    lines = 'setup: ["export FROM_SETUP=yes"], srun: {cpu-bind: none}, job_dir: ./jobs'
    (tmp_path / "site.yaml").write_text(f"{BACKEND}  init_args: {{{lines}, poll_seconds: 1}}\n")
    name = script("print(os.environ['FROM_SETUP'], os.environ['SLURM_CPU_BIND'])")
    result = getiaction_launch("--cluster", "./site.yaml", "--srun", "label=", "--wait", name)
    assert result.returncode == 0, result.stdout
    assert "yes quiet,none" in getiaction_launch("logs", "@last").stdout
    folder = tmp_path / "jobs/train/version_0"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (text,) = [path.read_text() for path in folder.glob("*_submission.sh")]
    assert " --label " in text
    job = read_job(str(tmp_path / "experiments/train/version_0"))
    assert job["job_dir"] == str(folder)


# Refusals


SHORT = "a job in partition 'short' can run for at most 30 minutes.\n-t 30"
MAIN = "a job in partition 'main' can have at most 4 nodes.\n--nodes 4"
REJECTED = "rejected by SLURM: allocation failure: "


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        ("-p mian", 3, "--partition mian: SLURM has no partition of that name.\nDid you mean 'ma"),
        ("-p short -t 31", 3, f"--time 31: {SHORT}"),
        ("-p short -t 31 -q normal", 3, f"--time 31: {SHORT}"),
        ("--nodes 5", 3, f"--nodes 5: {MAIN}"),
        ("-C warp", 4, f"-C warp: {REJECTED}Invalid feature specification"),
        ("--mem 900G", 4, f"--mem 900G: {REJECTED}Requested node configuration"),
        ("--mem 900G", 4, "There are: nodes have 4 CPUs 16000 MB gpu:2"),
        ("-w n99", 4, "There are: nodes n1, n2, n3, n4"),
        ("--gpus-per-node 3", 4, f"--gpus-per-node 3: {REJECTED}Requested node config"),
        ("--gpus-per-node a100:1", 4, f"--gpus-per-node a100:1: {REJECTED}Requested node config"),
        ("--srun mpi=nonesuch", 4, "--srun mpi=nonesuch: rejected by SLURM"),
        ("-d afterok:999999", 3, "--dependency afterok:999999: there is no job 999999 yet"),
        ("-q nrmal", 3, "-q nrmal: SLURM's accounting has no QOS of that name.\nDid you mean"),
        ("--sbatch bogus=1", 4, "rejected by SLURM: unrecognized option '--bogus=1'"),
        ("-d afternope:3", 2, "--dependency afternope:3: 'afternope' is not a type of dependency"),
        ("--sbatch ntasks-per-node=2", 2, "--sbatch ntasks-per-node=2: "),
    ],
)
def test_refused_before_anything_is_left_behind(  # noqa: PLR0917 - fixtures
    cluster, getiaction_launch, script, tmp_path, words, code, what
):
    """The error has the valid value or SLURM's own words; no job is queued, no run claimed."""
    before = cluster.cluster.run("squeue", "--noheader", "--format=%i").stdout.split()
    result = getiaction_launch(*words.split(), script(NAP))
    assert (result.returncode, result.stdout) == (code, "")
    assert what in result.stderr
    assert not list((tmp_path / "experiments").glob("*/*"))
    after = cluster.cluster.run("squeue", "--noheader", "--format=%i").stdout.split()
    assert set(after) <= set(before)  # jobs of earlier tests may end meanwhile


def test_missing_sbatch_is_said(cluster, script, tmp_path):
    """Typed on a machine without SLURM, the error names what to do instead."""
    words = [sys.executable, "-m", "getiaction_launch.cli", "--cluster", "slurm"]
    result = subprocess.run(
        cluster.typed("env", "PATH=/nowhere", *words, script(NAP)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 3
    assert result.stderr == (
        "error: there is no sbatch on this machine.\n"
        "Run this on a login node of the cluster, or train here: --cluster local\n"
    )


@pytest.fixture
def without_controller(cluster, tmp_path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Calls the launcher where no controller of SLURM answers."""

    def call(*words: str) -> "subprocess.CompletedProcess[str]":
        text = (cluster.cluster.directory / "slurm.conf").read_text()
        (tmp_path / "slurm.conf").write_text(text + "\nSlurmctldPort=9\nMessageTimeout=2\n")
        python = ["env", f"SLURM_CONF={tmp_path}/slurm.conf", sys.executable]
        return subprocess.run(
            cluster.typed(*python, "-m", "getiaction_launch.cli", *words),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return call


def test_controller_that_does_not_answer_is_unreachable(without_controller, script):
    """Its exit code differs from that of a refusal; SLURM's own words are in it."""
    result = without_controller("--cluster", "slurm", script(NAP))
    assert result.returncode == 5, result.stderr
    assert "SLURM does not answer scontrol: " in result.stderr
    assert "Unable to contact slurm controller" in result.stderr


def test_cancel_that_does_not_reach_the_controller_leaves_no_trace(
    without_controller, submit, state
):
    """It fails with exit code 5, and what happens to the job later does not count as cancelled."""
    run = submit()
    result = without_controller("cancel", run)
    assert result.returncode == 5, result.stderr
    assert "SLURM does not answer scancel: " in result.stderr
    assert not Path(run, "launch/cancel.json").exists()
    assert state(run)["state"] == "PENDING"


# Environment and secrets


def test_shell_inside_another_job_leaks_nothing(submit, scontrol, getiaction_launch):
    """What a tmux inside a job has inherited changes neither the job nor its workers."""
    leaks = {
        "SLURM_NTASKS": "16",
        "SLURM_JOB_ID": "7",
        "SLURM_CPU_BIND": "map_cpu:0",
        "SLURM_MEM_PER_NODE": "1",
        "SRUN_CPUS_PER_TASK": "64",
        "SBATCH_MEM_BIND": "map_mem:99",
        "SBATCH_GPUS_PER_NODE": "2",
        "SBATCH_SIGNAL": "KILL@60",
        "SBATCH_NO_REQUEUE": "1",
        "MASTER_ADDR": "203.0.113.1",
        "MASTER_PORT": "1",
        "RANK": "7",
        "WORLD_SIZE": "9",
        "CUDA_VISIBLE_DEVICES": "5",
        "LEAK_TEST_CONTROL": "arrives",
    }
    code = (
        "import torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "names = ['SLURM_CPU_BIND', 'SLURM_MEM_PER_NODE', 'SBATCH_MEM_BIND', 'SRUN_CPUS_PER_TASK',"
        " 'CUDA_VISIBLE_DEVICES', 'SLURM_NTASKS', 'WORLD_SIZE', 'LEAK_TEST_CONTROL']\n"
        "print('SEEN', [os.environ.get(name) for name in names])"
    )
    run = submit("--nodes", "2", "--wait", code=code, held=False, **leaks)
    job = scontrol(run)
    assert (job["Requeue"], job["NumTasks"]) == ("1", "2")
    assert "TresPerNode" not in job
    logs = getiaction_launch("logs", run).stdout
    seen = [
        json.loads(line.replace("'", '"').replace("None", "null"))
        for line in re.findall(r"SEEN (.*)", logs)
    ]
    assert len(seen) == 2
    for _cpu_bind, *values in seen:
        assert values == [None, None, None, None, "2", "2", "arrives"]
    assert all(values[0] != "map_cpu:0" for values in seen)


def test_secrets_are_forwarded_and_written_nowhere(cluster, submit, tmp_path, until):
    """A named variable is there in the workers; its value is in no file and on no command line."""
    secret = "hunter2-" + os.urandom(8).hex()
    init_args = "  init_args: {poll_seconds: 1}\n"
    config = f"{BACKEND}{init_args}forward_env_vars: [LAB_TOKEN]\n"
    (tmp_path / "site.yaml").write_text(config)
    code = (
        f"import hashlib\nopen(f'{tmp_path}/hash_{{rank}}', 'w').write(hashlib.sha256("
        "os.environ['LAB_TOKEN'].encode()).hexdigest() + str('LAB_OTHER' in os.environ))\n"
        "time.sleep(600)"
    )
    words = ("--cluster", "./site.yaml", "--nodes", "2")
    run = submit(*words, code=code, held=False, LAB_TOKEN=secret, LAB_OTHER="x")
    hashes = [tmp_path / "hash_0", tmp_path / "hash_1"]
    until(lambda: all(path.exists() and path.read_text() for path in hashes))
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert [path.read_text() for path in hashes] == [f"{digest}False"] * 2
    processes = cluster.processes(Path(run))
    assert len(processes) >= 4
    assert not [process for process in processes if secret in " ".join(process.cmdline())]
    for path in Path(run).rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes(), path


# The script


def test_script_of_a_dry_run_trains_the_same_run(
    cluster, getiaction_launch, script, state, tmp_path
):
    """Saved and given to sbatch by hand in another directory, it makes the run that was meant."""
    name = script("print('words', sys.argv[1:], os.environ['WORLD_SIZE'], os.getcwd())")
    printed = getiaction_launch("--dry-run", "--nodes", "2", name, "a b", "--x=1").stdout
    assert not (tmp_path / "experiments").exists()
    text = printed[printed.index("#!/bin/bash") :]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/by_hand.sh").write_text(text)
    result = subprocess.run(
        cluster.typed("sbatch", "--wait", "by_hand.sh"),
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    outputs = "".join(path.read_text() for path in tmp_path.glob("*_log.out"))
    assert result.returncode == 0, result.stderr + outputs
    assert (state("@last")["run"], state("@last")["state"]) == ("train/version_0", "SUCCEEDED")
    logs = getiaction_launch("logs", "@last").stdout
    assert logs.count(f"words ['a b', '--x=1'] 2 {tmp_path}\n") == 2


# Sweeps


def test_sweep_is_an_array_of_runs(getiaction_launch, script, tmp_path):
    """One array; each point is a run of its own, with its own words, and all are waited for."""
    name = script("print('point', sys.argv[1:])")
    result = getiaction_launch("--sweep", "lr=1,2,3", "--max-parallel", "2", "--wait", name)
    assert result.returncode == 0, result.stderr
    runs = [tmp_path / f"experiments/train/version_{number}" for number in range(3)]
    ids = [read_job(str(run))["job_id"] for run in runs]
    array = ids[0].partition("_")[0]
    assert ids == [f"{array}_0", f"{array}_1", f"{array}_2"]
    for number, run in enumerate(runs):
        assert f"point ['--lr={number + 1}']" in getiaction_launch("logs", str(run)).stdout


def test_element_of_an_array_is_cancelled_alone(cluster, getiaction_launch, script, state):
    """The other points of the sweep stay in the queue, of which two may run at a time."""
    words = ("--sweep", "lr=1,2,3", "--max-parallel", "2", "--sbatch", "hold=")
    assert getiaction_launch(*words, script(NAP)).returncode == 0
    runs = [f"train/version_{number}" for number in range(3)]
    assert [state(run)["state"] for run in runs] == ["PENDING"] * 3
    said = cluster.cluster.run("squeue", "--noheader", "--format=%K")
    assert said.stdout.split() == ["0-2%2"]
    assert getiaction_launch("cancel", runs[1]).returncode == 0
    assert [state(run)["state"] for run in runs] == ["PENDING", "CANCELLED", "PENDING"]


def test_sweep_larger_than_the_sites_arrays_is_several(
    cluster, getiaction_launch, script, state, tmp_path
):
    """The second array waits for the first; together they are one sweep, also to cancel."""
    words = ("--sweep", "lr=1,2,3,4,5,6,7", "--max-parallel", "2", "--sbatch", "hold=")
    started = getiaction_launch(*words, script(NAP))
    assert started.returncode == 0, started.stderr
    runs = [tmp_path / f"experiments/train/version_{number}" for number in range(7)]
    ids = [read_job(str(run))["job_id"] for run in runs]
    first, second = ids[0].partition("_")[0], ids[-1].partition("_")[0]
    assert ids == [*(f"{first}_{i}" for i in range(5)), f"{second}_0", f"{second}_1"]
    listed = cluster.cluster.run("squeue", "--noheader", "--sort=i", "--format=%F %K %E").stdout
    waits = f"afterany:{first}_*(unfulfilled)"
    assert listed.split("\n")[:2] == [f"{first} 0-4%2 (null)", f"{second} 0-1%2 {waits}"]
    assert state(str(runs[6]))["state"] == "PENDING"
    (name,) = {json.loads((run / "launch/plan.json").read_text())["sweep"]["group"] for run in runs}
    assert getiaction_launch("cancel", name).returncode == 0
    assert cluster.cluster.run("squeue", "--noheader").stdout == ""
    assert {state(str(run))["state"] for run in runs} == {"CANCELLED"}


def test_element_that_somebody_cancels_in_the_queue_is_cancelled(
    cluster, getiaction_launch, script, state, until
):
    """SLURM lists it nowhere any more, with and without accounting."""
    words = ("--sweep", "lr=1,2", "--sbatch", "hold=", "--parsable", script(NAP))
    runs = getiaction_launch(*words).stdout.split()
    cluster.cluster.run("scancel", read_job(runs[1])["job_id"])
    until(lambda: state(runs[1])["state"] == "CANCELLED")
    assert state(runs[1])["reason"] == "cancelled before it started"
    assert state(runs[0])["state"] == "PENDING"


# Names

ODD = """it's "100%j" a\\b $HOME `id` #1 ü;&*"""


def test_run_with_any_name_in_any_directory_trains(cluster, getiaction_launch, script, tmp_path):
    """SLURM cannot have some characters in a log's path; elsewhere it gets all as they are."""
    name = script("print('HERE', os.getcwd())")
    refused = getiaction_launch("--name", ODD, name)
    assert refused.returncode == 3
    assert "job_dir: ~/slurm_jobs" in refused.stderr
    assert not (tmp_path / "experiments").exists()
    config = cluster.config.read_text()
    cluster.config.write_text(
        config.replace("poll_seconds", f"job_dir: {tmp_path}/jobs, poll_seconds")
    )
    place = tmp_path / ODD
    place.mkdir()
    ordinary_user.own(place)
    words = ("--cluster", str(cluster.config), "--name", ODD, "--wait", str(tmp_path / name))
    done = subprocess.run(
        cluster.command(*words),
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (place / "experiments").glob("*/version_*")
    assert run.parent.name == ODD
    assert f"HERE {place}\n" in (run / "launch/logs/attempt_0/rank_0.log").read_text()
    job = read_job(str(run))
    said = cluster.cluster.run("squeue", "--states=all", "--noheader", "-j", job["job_id"], "-o%j")
    assert said.stdout.rstrip("\n") == ODD


# Dependencies


def test_dependency_on_a_run_by_its_name(submit, scontrol, getiaction_launch, state, until):
    """``-d afterok:@last`` waits for that run; when it can never come, the job is taken away."""
    first = submit()
    second = submit("-d", "afterok:@last", held=False)
    first_id = read_job(first)["job_id"]
    assert scontrol(second)["Dependency"] == f"afterok:{first_id}(unfulfilled)"
    assert state(second)["state"] == "PENDING"
    assert getiaction_launch("cancel", first).returncode == 0
    until(lambda: state(second)["state"] == "CANCELLED")


# State


def test_state_is_right_without_accounting(  # noqa: PLR0917 - fixtures
    cluster,
    slurm_without_accounting,
    getiaction_launch,
    script,
    state,
    until,
    tmp_path,
    monkeypatch,
):
    """Success, a job that never began, a cancel by hand, and a job that SLURM has forgotten."""
    monkeypatch.setattr(cluster, "cluster", slurm_without_accounting)
    (tmp_path / "broken.yaml").write_text(
        f"{BACKEND}  init_args: {{poll_seconds: 1, setup: [no_such_module, exit 3]}}\n"
    )
    assert getiaction_launch("--nodes", "2", "--wait", script("pass")).returncode == 0

    broken = getiaction_launch("--cluster", "./broken.yaml", "--wait", "train.py")
    assert broken.returncode == 10
    assert "no_such_module: command not found" in broken.stdout

    run = getiaction_launch("--parsable", "--sbatch", "hold=", "train.py").stdout.strip()
    assert state(run)["state"] == "PENDING"
    slurm_without_accounting.run("scancel", read_job(run)["job_id"])
    until(lambda: state(run)["state"] == "CANCELLED")
    assert state(run)["reason"] == "cancelled"

    (Path(run) / "launch/job_end.json").unlink()
    record = Path(run, "launch/job.json")
    record.write_text(json.dumps({**read_job(run), "job_id": "99999", "submitted_at": 1}))
    assert state(run)["state"] == "UNKNOWN"
    assert "accounting storage is disabled" in state(run)["reason"]
