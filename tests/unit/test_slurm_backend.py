"""The SLURM backend's submitting side, with commands of SLURM that only say what a test tells."""

import dataclasses
import json
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from getiaction_launch.backends.slurm import SlurmBackend, command, queue, sbatch
from getiaction_launch.backends.slurm.backend import submit_successor
from getiaction_launch.backends.slurm.job import SlurmJob
from getiaction_launch.cluster import ClusterConfig, read_cluster
from getiaction_launch.errors import (
    CheckError,
    ClusterConfigError,
    LaunchError,
    RefusedError,
    UnreachableError,
)
from getiaction_launch.plan import Plan, Topology
from getiaction_launch.run import Run
from getiaction_launch.state import Cause, JobState

pytestmark = pytest.mark.usefixtures("slurm")

COMMANDS = ("sbatch", "srun", "scancel", "squeue", "sacct", "sacctmgr", "scontrol")
FAKE = """#!/bin/sh
name=$(basename "$0")
cd {directory}
echo "$name $*" >> calls
env > $name.env
[ -f $name.hook ] && . ./$name.hook
[ -f $name.out ] && cat $name.out
[ -f $name.err ] && cat $name.err >&2
exit $(cat $name.code 2> /dev/null || echo 0)
"""
PARTITIONS = (
    "PartitionName=main Default=YES MaxNodes=UNLIMITED MaxTime=UNLIMITED TotalNodes=4\n"
    "PartitionName=short Default=NO MaxNodes=2 MaxTime=1-00:30:00 TotalNodes=4\n"
)
NO_ACCOUNTING = "Slurm accounting storage is disabled"
DOWN = "squeue: error: slurm_load_jobs: Unable to contact slurm controller (connect failure)"


class FakeSlurm:
    """Commands that answer what they are told, and write down what they were asked."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "bin").mkdir()
        for name in COMMANDS:
            path = directory / "bin" / name
            path.write_text(FAKE.format(directory=directory))
            path.chmod(0o755)
        self.answer("scontrol", PARTITIONS)
        self.answer("sbatch", "Submitted batch job 12")

    def answer(self, command: str, text: str = "", error: str = "", *, hook: str = "") -> None:
        """What a command prints from now on; with ``error``, it fails."""
        for kind, content in (("out", text), ("err", error), ("hook", hook)):
            (self.directory / f"{command}.{kind}").write_text(content)
        (self.directory / f"{command}.code").write_text("1" if error else "0")

    def squeue(self, *rows: str) -> None:
        """Let squeue list jobs: ``12|RUNNING`` and, if wanted, start, end and reason."""
        padded = [(row + "|N/A|N/A|None") if row.count("|") == 1 else row for row in rows]
        self.answer("squeue", "\n".join(padded) + "\n")

    def calls(self, command: str) -> list[str]:
        """The command lines so far."""
        path = self.directory / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] == command]

    def environment(self, command: str) -> dict[str, str]:
        """What the last call of a command was given."""
        lines = (self.directory / f"{command}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    """SLURM's commands on the path, a cache of their answers that is empty, a clean environment."""
    for name in os.environ:
        if name.startswith(("SLURM", "SBATCH")):
            monkeypatch.delenv(name)
    (tmp_path / "slurm").mkdir()
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.directory}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def make_plan(directory: Path, **changes) -> Plan:
    """A script on two CPU nodes with two workers each."""
    plan = Plan(
        name="act",
        root=str(directory / "experiments"),
        arguments=[],
        script=[str(directory / "train.py"), "a b"],
        words=["--nodes=2", str(directory / "train.py"), "a b"],
        topology=Topology(2, 2, 0),
        working_directory=str(directory),
    )
    return dataclasses.replace(plan, **changes)


def make_run(plan: Plan, job: dict | None = None) -> Run:
    """Claim a run, which was submitted if ``job`` says how."""
    run = Run.claim(plan.root, plan.name)
    run.write("plan", plan.to_json())
    if job is not None:
        run.write("job", {"submitted_at": time.time(), **job})
    return run


def ask(job_id="12", poll_seconds=30.0, submitted_at=0.0, **changes) -> queue.Answer:
    """Ask for a job of this user."""
    return queue.ask(job_id, os.getuid(), poll_seconds, submitted_at, **changes)


# The script


def test_script_is_this_to_the_letter(tmp_path):
    """One task per node; no --time, so that the partition's default holds; requeue is asked for."""
    script = SlurmBackend(python="python3").describe(make_plan(tmp_path))
    expected = f"""#!/bin/bash

# Parameters
#SBATCH --chdir={tmp_path}
#SBATCH --cpus-per-task=2
#SBATCH --job-name=act
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output={tmp_path}/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120

# setup
unset SLURM_EXPORT_ENV

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output {tmp_path}/%j_%t_log.out --kill-on-bad-exit=1 --wait=0 \
--cpus-per-task=2 python3 -m getiaction_launch.cli node --nodes=2 {tmp_path}/train.py 'a b'
"""
    assert script == expected.splitlines()


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({"partition": "gpu"}, ["--partition=gpu"]),
        ({"account": "lab"}, ["--account=lab"]),
        ({"qos": "high"}, ["--qos=high"]),
        ({"nodelist": "n[1-2]"}, ["--nodelist='n[1-2]'"]),
        ({"exclude": "n3"}, ["--exclude=n3"]),
        ({"constraint": "a100&ib"}, ["--constraint='a100&ib'"]),
        ({"mail_user": "me@lab"}, ["--mail-user=me@lab", "--mail-type=BEGIN,END,FAIL,REQUEUE"]),
        ({"mail_user": "me", "sbatch": {"mail_type": "FAIL"}}, ["--mail-type=FAIL"]),
        ({"dependency": "afterok:1:2"}, ["--dependency=afterok:1:2", "--kill-on-invalid-dep=yes"]),
        ({"time_limit_minutes": 90}, ["--time=90"]),
        ({"time_limit_minutes": 0}, ["--time=0"]),
        ({"cpus_per_worker": 6}, ["--cpus-per-task=12"]),
        ({"memory_mb": 4096}, ["--mem=4096M"]),
        ({"memory_mb": 0}, ["--mem=0"]),
        ({"warning_seconds": 300}, ["--signal=USR2@300"]),
        ({"sbatch": {"exclusive": "", "mem_bind": "local"}}, ["--exclusive", "--mem-bind=local"]),
        ({"sbatch": {"exclusive": True, "nice": 0}}, ["--exclusive", "--nice=0"]),
        ({"sbatch": {"nice": 1, "hold": None, "spread_job": False}}, ["--nice=1", "--hold"]),
    ],
)
def test_each_setting_stands_in_the_header(tmp_path, settings, lines):
    """Every field of the backend asks SLURM for what its name says, once."""
    script = SlurmBackend(**settings).describe(make_plan(tmp_path))
    for line in lines:
        flag = f"#SBATCH {line.partition('=')[0]}"
        assert [x for x in script if x.partition("=")[0] == flag] == [f"#SBATCH {line}"]
    assert "spread-job" not in "".join(script)


def test_gpus_are_asked_per_node_and_cpus_left_to_the_site(tmp_path):
    """On GPU nodes the number of CPUs is SLURM's unless somebody has said it."""
    plan = make_plan(tmp_path, topology=Topology(2, 4, 4))
    script = "\n".join(SlurmBackend().describe(plan))
    assert "#SBATCH --gpus-per-node=4\n" in script
    assert "cpus-per-task" not in script
    script = "\n".join(SlurmBackend(cpus_per_worker=8).describe(plan))
    assert script.count("--cpus-per-task=32") == 2  # of the job, and of its step
    script = SlurmBackend(gpu_type="a100").describe(plan)
    assert "#SBATCH --gpus-per-node=a100:4" in script
    on_cpu = SlurmBackend(gpu_type="a100").describe(make_plan(tmp_path))
    assert not [line for line in on_cpu if line.startswith("#SBATCH --gpus")]


def test_setup_and_srun_are_the_users(tmp_path):
    """Setup lines come before srun, and srun's own options stand on its line."""
    backend = SlurmBackend(
        setup=["module load cuda"], srun={"label": True, "mpi": "none", "overlap": False}
    )
    script = backend.describe(make_plan(tmp_path))
    srun = next(line for line in script if line.startswith("srun"))
    assert script.index("module load cuda") < script.index(srun)
    assert " --label --mpi=none " in srun


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_job_is_not_named_as_lightning_names_interactive_ones(tmp_path, name):
    """Under these two names Lightning would take every rank for rank 0, and hang."""
    script = SlurmBackend().describe(make_plan(tmp_path, name=name))
    assert f"#SBATCH --job-name={name}_run" in script


def test_inherited_signal_of_submitit_changes_nothing(tmp_path):
    """SUBMITIT_PREEMPT_SIGNAL in the environment does not change the warning's signal."""
    code = (
        "import pickle, sys; from getiaction_launch.backends.slurm import SlurmBackend; "
        "print('\\n'.join(SlurmBackend().describe(pickle.load(sys.stdin.buffer))))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(make_plan(tmp_path)),
        env={**os.environ, "SUBMITIT_PREEMPT_SIGNAL": "USR1"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert b"--signal=USR2@120" in result.stdout


# What is refused


@pytest.mark.parametrize(
    ("command", "key", "value", "fix"),
    [
        ("sbatch", "nodes", "4", "--nodes"),
        ("sbatch", "ntasks", "4", "--trainer.devices"),
        ("sbatch", "ntasks-per-node", "4", "--trainer.devices"),
        ("sbatch", "ntasks_per_node", "4", "--trainer.devices"),
        ("sbatch", "ntasks-per-nod", "4", "--trainer.devices"),
        ("sbatch", "cpus-per-task", "4", "-c"),
        ("sbatch", "gpus", "4", "--gpus-per-node"),
        ("sbatch", "gpus-per-task", "1", "--gpus-per-node"),
        ("sbatch", "gres", "gpu:2", "--gpus-per-node"),
        ("sbatch", "signal", "USR1@60", "warning_seconds"),
        ("sbatch", "requeue", "", "max_interruptions"),
        ("sbatch", "no-requeue", "", "max_interruptions"),
        ("sbatch", "output", "x", "job_dir"),
        ("sbatch", "error", "x", "job_dir"),
        ("sbatch", "array", "0-3", "--sweep"),
        ("sbatch", "time", "10", "-t"),
        ("sbatch", "partition", "x", "-p"),
        ("sbatch", "export", "NONE", "forward_env_vars"),
        ("sbatch", "n", "4", "in full"),
        ("srun", "ntasks", "4", "--trainer.devices"),
        ("srun", "wait", "30", "wait for the others"),
        ("srun", "kill-on-bad-exit", "0", "ends the others"),
    ],
)
def test_options_that_the_launcher_decides_are_refused(command, key, value, fix):
    """A contradiction of the Trainer's geometry, or of the launcher's own rule, names the flag."""
    with pytest.raises(ClusterConfigError, match=f"--{command} {key}=") as error:
        SlurmBackend(**{command: {key: value}})
    assert fix in str(error.value)


def test_options_that_only_look_like_those_pass():
    """What the launcher has no opinion on is the user's."""
    options = {
        "gres": "tmp:100G",
        "exclusive": "user",
        "begin": "now+1hour",
        "nice": "",
        "hold": "",
    }
    assert SlurmBackend(sbatch=options).sbatch == options
    assert SlurmBackend(sbatch={"gres": None}).sbatch == {"gres": None}


@pytest.mark.parametrize(
    ("settings", "num_nodes", "what"),
    [
        ({"partition": "mian"}, 2, r"no partition of that name.\nDid you mean 'main'"),
        ({"partition": "main,shor"}, 2, r"shor: .*\nDid you mean 'short'"),
        ({}, 5, r"--nodes 5: .*'main' can have 4.\n--nodes 4"),
        ({"partition": "short"}, 3, r"--nodes 3: .*'short' can have 2"),
        ({"partition": "short", "time_limit_minutes": 1471}, 2, r"1471: .*1470 minutes.\n-t 1470"),
        ({"partition": "short", "time_limit_minutes": 0}, 2, r"--time 0: .*1470 minutes.\n-t 1470"),
        ({"time_limit_minutes": 2}, 2, r"--time 2 .*warning_seconds=120"),
    ],
)
def test_what_would_never_start_is_refused(slurm, tmp_path, settings, num_nodes, what):
    """SLURM itself would take some of these and queue them for ever."""
    plan = make_plan(tmp_path, topology=Topology(num_nodes, 1, 0))
    with pytest.raises(CheckError, match=what):
        SlurmBackend(**settings).check(plan)
    assert not slurm.calls("sbatch")


def test_one_partition_that_fits_is_enough(slurm, tmp_path):
    """Of several partitions SLURM takes any; the last word is sbatch's own."""
    plan = make_plan(tmp_path, topology=Topology(3, 1, 0))
    SlurmBackend(partition="main,short").check(plan)
    assert slurm.calls("sbatch") == ["sbatch --test-only"]


def test_partition_of_the_environment_is_the_one_that_is_checked(slurm, tmp_path, monkeypatch):
    """SBATCH_PARTITION says it where no flag does, and for sbatch too; a flag is stronger."""
    monkeypatch.setenv("SBATCH_PARTITION", "short")
    plan = make_plan(tmp_path, topology=Topology(3, 1, 0))
    with pytest.raises(CheckError, match="'short'"):
        SlurmBackend().check(plan)
    SlurmBackend(partition="main").check(plan)
    assert "SBATCH_PARTITION" not in slurm.environment("sbatch")
    assert os.environ["SBATCH_PARTITION"] == "short"


def test_qos_may_allow_more_time_than_its_partition(slurm, tmp_path, monkeypatch):
    """Where a QOS is asked for, its flags say so; where they are not to be had, sbatch does."""
    backend = SlurmBackend(partition="short", time_limit_minutes=1471)
    slurm.answer("sacctmgr", "DenyOnLimit\n")
    with pytest.raises(CheckError, match="1470 minutes"):
        dataclasses.replace(backend, qos="long").check(make_plan(tmp_path))
    slurm.answer("sacctmgr", "DenyOnLimit,PartitionTimeLimit\n")
    dataclasses.replace(backend, qos="long").check(make_plan(tmp_path))
    slurm.answer("sacctmgr", error=NO_ACCOUNTING)
    monkeypatch.setenv("SBATCH_QOS", "long")
    backend.check(make_plan(tmp_path))
    assert "names=long" in slurm.calls("sacctmgr")[-1]
    assert len(slurm.calls("sbatch")) == 2
    with pytest.raises(CheckError, match="can have 2"):
        backend.check(make_plan(tmp_path, topology=Topology(3, 1, 0)))


def test_last_word_is_sbatchs(slurm, tmp_path):
    """What only sbatch knows is passed on in its words, with what to try."""
    said = "sbatch: error: Batch job submission failed: Invalid account or account/partition"
    slurm.answer("sbatch", error=said)
    with pytest.raises(RefusedError, match=r"Invalid account.*\nName yours: -A") as error:
        SlurmBackend().check(make_plan(tmp_path))
    assert error.value.exit_code == 4


def test_slurm_that_does_not_answer_is_no_refusal(slurm, tmp_path, monkeypatch):
    """A controller that is down, and one that hangs, are said to be unreachable."""
    slurm.answer("scontrol", error="slurm_load_partitions: Unable to contact slurm controller")
    with pytest.raises(UnreachableError, match="does not answer scontrol"):
        SlurmBackend().check(make_plan(tmp_path))
    monkeypatch.setattr(command, "COMMAND_SECONDS", 0.2)
    slurm.answer("scontrol", hook="exec sleep 60")
    with pytest.raises(UnreachableError, match=r"timed out after 0.2 s"):
        SlurmBackend().check(make_plan(tmp_path))


def test_shipped_config_says_the_defaults():
    """Each key in it is a field of the backend, and its value what holds without it."""
    place = read_cluster(Path(__file__).parents[2] / "cluster_configs/slurm.yaml")
    assert place == ClusterConfig(SlurmBackend())


# Submission


def test_job_is_written_down_so_that_any_shell_finds_it(tmp_path):
    """job.json holds the id and a backend that is the one that submitted, less its dependency."""
    backend = SlurmBackend(partition="main", sbatch={"nice": "5"}, dependency="afterok:3")
    run = make_run(make_plan(tmp_path))
    backend.submit([run], None)
    record = run.read("job")
    assert record["job_id"] == "12"
    assert record["previous_job_ids"] == []
    assert (
        record["backend"]["class_path"] == "getiaction_launch.backends.slurm.backend.SlurmBackend"
    )
    again = SlurmBackend(**record["backend"]["init_args"])
    assert again == dataclasses.replace(backend, dependency=None)


def test_successor_waits_for_its_job_and_remembers_it(slurm, tmp_path):
    """Where a job cannot be requeued, the next one of its run starts when it has gone."""
    run = make_run(make_plan(tmp_path))
    SlurmBackend().submit([run], None)
    slurm.answer("sbatch", "Submitted batch job 13")
    submit_successor(run, "12")
    record = run.read("job")
    assert (record["job_id"], record["previous_job_ids"]) == ("13", ["12"])
    script = Path(record["job_dir"], "13_submission.sh").read_text()
    assert "--dependency=afterany:12" in script
    own = make_run(make_plan(tmp_path), {"job_id": "5", "step_id": "0"})
    with pytest.raises(RefusedError, match="your own"):
        submit_successor(own, "5")


def test_successor_takes_over_who_waits_for_its_job(slurm, tmp_path):
    """Jobs that wait for the old one are moved, and nothing else; without squeue they stay."""
    run = make_run(make_plan(tmp_path))
    SlurmBackend().submit([run], None)
    slurm.answer("sbatch", "Submitted batch job 13")
    waiting = [
        "13|afterany:12(unfulfilled)",
        "20|afterok:9(failed):12(unfulfilled),after:7+12(unfulfilled)",
        "21|afterok:12_1(unfulfilled),afterany:112(unfulfilled)",
        "22|(null)",
        "23|afternotok:12(unfulfilled)?singleton(unfulfilled)",
        "23|afternotok:12(unfulfilled)?singleton(unfulfilled)",
    ]
    slurm.answer("squeue", "\n".join(waiting))
    slurm.answer("scontrol", hook="[ $2 = JobId=20 ] && exit 1")  # it has begun meanwhile
    submit_successor(run, "12")
    assert sorted(slurm.calls("scontrol")) == [
        "scontrol update JobId=20 Dependency=afterok:9:13,after:7+12",
        "scontrol update JobId=23 Dependency=afternotok:13?singleton",
    ]
    slurm.answer("squeue", error=DOWN)
    slurm.answer("sbatch", "Submitted batch job 14")
    submit_successor(run, "13")
    assert run.read("job")["job_id"] == "14"


@pytest.mark.parametrize("elsewhere", [False, True])
def test_job_directory_is_private(tmp_path, elsewhere):
    """It holds pickles that run as the user: nobody else may read or write it."""
    backend = SlurmBackend(job_dir=str(tmp_path / "jobs") if elsewhere else None)
    run = make_run(make_plan(tmp_path))
    wanted = tmp_path / "jobs/act/version_0" if elsewhere else run.launch_directory / "slurm"
    wanted.mkdir(parents=True, mode=0o777)
    backend.submit([run], None)
    assert Path(run.read("job")["job_dir"]) == wanted
    assert stat.S_IMODE(wanted.stat().st_mode) == 0o700
    assert (wanted / "12_submitted.pkl").is_file()


def test_job_directory_that_cannot_be_made_is_named(slurm, tmp_path):
    """The error names the setting and the path, and nothing is submitted."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckError, match=r"job_dir=.*/file"):
        SlurmBackend(job_dir=str(tmp_path / "file")).submit([make_run(make_plan(tmp_path))], None)
    assert not slurm.calls("sbatch")


def test_sweep_is_one_array(slurm, tmp_path):
    """Points become elements of one array, of which so many run at a time as was said."""
    runs = [make_run(make_plan(tmp_path)) for _ in range(3)]
    SlurmBackend(python="python3").submit(runs, 2)
    assert len(slurm.calls("sbatch")) == 1
    assert [run.read("job")["job_id"] for run in runs] == ["12_0", "12_1", "12_2"]
    folder = Path(runs[2].read("job")["job_dir"])
    script = (folder / "12_submission.sh").read_text()
    assert "#SBATCH --array=0-2%2\n" in script
    assert "python3 -u -m submitit" in script
    assert (folder / "12_2_submitted.pkl").is_file()
    odd = make_run(make_plan(tmp_path, topology=Topology(1, 1, 0)))
    with pytest.raises(CheckError, match="differ in nodes"):
        SlurmBackend().submit([runs[0], odd], None)


def test_refusal_of_sbatch_is_all_that_the_user_sees(slurm, tmp_path, capfd):
    """What sbatch says, and submitit would print, is in the error, once."""
    slurm.answer("sbatch", error="sbatch: error: Job dependency problem")
    run = make_run(make_plan(tmp_path))
    with pytest.raises(RefusedError, match="SLURM refuses: Job dependency problem"):
        SlurmBackend().submit([run], None)
    assert run.read("job") is None
    assert capfd.readouterr() == ("", "")
    slurm.answer("sbatch", "how do you do")
    with pytest.raises(LaunchError, match="how do you do"):
        SlurmBackend().submit([run], None)


def test_sbatch_that_hangs_is_ended(slurm, tmp_path, monkeypatch):
    """The command comes back, and says where to look before one tries again."""
    monkeypatch.setattr(sbatch, "SBATCH_SECONDS", 0.3)
    # No shell, whose child would keep the pipe open when it is killed.
    fake = slurm.directory / "bin/sbatch"
    fake.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    with pytest.raises(UnreachableError, match="squeue --me"):
        SlurmBackend().submit([make_run(make_plan(tmp_path))], None)


@pytest.mark.parametrize("other_thread", [False, True])
def test_ctrl_c_waits_until_the_job_can_be_found(slurm, tmp_path, other_thread):
    """A job whose id is lost could not be cancelled; so the interrupt comes after job.json.

    The kernel gives it to any thread that takes it, such as those of torch.
    """
    # No shell, which unblocks signals. A terminal sends Ctrl-C to both processes.
    (slurm.directory / "bin/sbatch").write_text(
        f"#!{sys.executable}\nimport os\nos.kill(os.getpid(), 2)\nos.kill(os.getppid(), 2)\n"
        "print('Submitted batch job 12')\n"
    )
    run = make_run(make_plan(tmp_path))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        if other_thread:
            thread.start()
        with pytest.raises(KeyboardInterrupt):
            SlurmBackend().submit([run], None)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
        done.set()
    assert run.read("job")["job_id"] == "12"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


LEAKS = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "16",
    "SLURM_CPU_BIND": "map_cpu:0",
    "SLURMD_NODENAME": "n1",
    "SRUN_CPUS_PER_TASK": "9",
    "SBATCH_MEM_BIND_LIST": "0x1",
    "SBATCH_GPUS_PER_NODE": "8",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_SIGNAL": "KILL@1",
    "SBATCH_WAIT": "1",
    "SUBMITIT_EXECUTOR": "slurm",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "ROLE_NAME": "default",
    "TORCHELASTIC_RUN_ID": "x",
    "GETIACTION_RUN_DIR": "/r",
    "GETIACTION_LAUNCH_RESUME_FROM": "/c",
    "CUDA_VISIBLE_DEVICES": "0",
}
STAY = {"SLURM_CONF": "/c", "SBATCH_RESERVATION": "r", "SBATCH_ACCOUNT": "lab", "TOKEN": "hunter2"}


@pytest.mark.parametrize("command", ["check", "submit"])
def test_what_the_shell_inherited_does_not_reach_the_job(slurm, tmp_path, monkeypatch, command):
    """A shell inside another job has variables that would make another job of this one."""
    for name, value in {**LEAKS, **STAY}.items():
        monkeypatch.setenv(name, value)
    backend = SlurmBackend()
    if command == "check":
        backend.check(make_plan(tmp_path))
    else:
        backend.submit([make_run(make_plan(tmp_path))], None)
    given = slurm.environment("sbatch")
    assert not given.keys() & LEAKS.keys()
    assert STAY.items() <= given.items()
    assert {**LEAKS, **STAY}.items() <= os.environ.items()  # this process keeps its own


def test_only_named_variables_are_forwarded(slurm, tmp_path, monkeypatch):
    """Beside them a job gets what a shell needs; values stand in no file of the run."""
    monkeypatch.setenv("TOKEN", "hunter2")
    monkeypatch.setenv("OTHER", "x")
    monkeypatch.setenv("SBATCH_EXPORT", "ALL")
    run = make_run(make_plan(tmp_path, forward_env_vars=["TOKEN"]))
    SlurmBackend().submit([run], None)
    given = slurm.environment("sbatch")
    assert given["TOKEN"] == os.environ["TOKEN"]
    assert given["PATH"] == os.environ["PATH"]
    assert "OTHER" not in given
    for path in run.directory.rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes()


# What SLURM says of jobs


@pytest.mark.parametrize(
    ("row", "state", "cause", "words"),
    [
        ("12|PENDING|N/A|N/A|Priority", JobState.PENDING, None, "Priority"),
        (
            "12|PENDING|4000000000|N/A|Resources",
            JobState.PENDING,
            None,
            "SLURM expects to start it on",
        ),
        (
            "12|PENDING|N/A|N/A|DependencyNeverSatisfied",
            JobState.PENDING,
            None,
            "never start: scontrol update JobId=12 Dependency=",
        ),
        ("12|PENDING|N/A|N/A|JobHeldUser", JobState.PENDING, None, "scontrol release 12"),
        ("12|CONFIGURING", JobState.PENDING, None, "prepared"),
        ("12|RUNNING", JobState.RUNNING, None, ""),
        ("12|COMPLETING", JobState.RUNNING, None, "ending"),
        ("12|SUSPENDED", JobState.RUNNING, None, "suspended"),
        ("12|REQUEUED", JobState.PENDING, None, "requeued"),
        ("12|COMPLETED", JobState.SUCCEEDED, None, ""),
        ("12|TIMEOUT|1|2|TimeLimit", JobState.INTERRUPTED, Cause.TIME_LIMIT, "time limit"),
        ("12|DEADLINE", JobState.INTERRUPTED, Cause.TIME_LIMIT, "deadline"),
        ("12|OUT_OF_MEMORY", JobState.FAILED, Cause.OUT_OF_MEMORY, "memory"),
        ("12|NODE_FAIL|1|2|NodeDown", JobState.FAILED, Cause.NODE_FAILURE, "a node failed"),
        ("12|BOOT_FAIL", JobState.FAILED, Cause.NODE_FAILURE, "boot"),
        ("12|PREEMPTED", JobState.INTERRUPTED, Cause.PREEMPTION, "preempted"),
        ("12|CANCELLED|1|2|Priority", JobState.CANCELLED, Cause.CANCEL, "cancelled"),
        (
            "12|CANCELLED|1|2|DependencyNeverSatisfied",
            JobState.CANCELLED,
            Cause.CANCEL,
            "cancelled: DependencyNeverSatisfied",
        ),
        ("12|CANCELLED by 0", JobState.CANCELLED, Cause.CANCEL, "cancelled by root"),
        ("12|FAILED|1|2|NonZeroExitCode", JobState.FAILED, Cause.CRASH, "failed"),
        ("12|LAUNDERED", JobState.UNKNOWN, None, "LAUNDERED"),
    ],
)
def test_words_of_slurm_mean(slurm, row, state, cause, words):
    """Every state of SLURM has one of ours; what is unknown is said as unknown, in its word."""
    slurm.squeue("11|RUNNING", row, "a line of the site's own", "121|RUNNING")
    answer = ask()
    assert (answer.state, answer.cause) == (state, cause)
    assert words in answer.reason
    assert answer.state is JobState.PENDING or "Priority" not in answer.reason


def test_job_of_a_node_that_has_just_failed_may_start_again(slurm):
    """SLURM shows NODE_FAIL for a moment before it queues the job again: that is no end."""
    slurm.squeue(f"12|NODE_FAIL|1|{time.time():.0f}|NodeDown")
    assert ask().state is JobState.PENDING


def test_element_of_an_array_is_a_job(slurm):
    """Elements are told apart, also those that wait."""
    slurm.squeue("12_0|COMPLETED", "12_1|RUNNING", "12_2|PENDING")
    assert ask("12_1").state is JobState.RUNNING
    assert ask("12_2").state is JobState.PENDING
    assert "--array" in slurm.calls("squeue")[0]


WATCH = """
import os, sys
from getiaction_launch.backends.slurm.queue import ask
print([ask(str(n), os.getuid(), 30, 0).state.value for n in range(25)].count("RUNNING"))
"""


def test_any_number_of_watchers_costs_one_question(slurm):
    """100 runs, watched by 4 processes at once, ask SLURM once; a younger answer asks again."""
    slurm.squeue(*(f"{n}|RUNNING" for n in range(100)))
    watchers = [
        subprocess.Popen([sys.executable, "-c", WATCH], stdout=subprocess.PIPE) for _ in range(4)
    ]
    assert [watcher.communicate(timeout=60)[0] for watcher in watchers] == [b"25\n"] * 4
    assert len(slurm.calls("squeue")) == 1
    assert ask(fresh=True).state is JobState.RUNNING
    assert len(slurm.calls("squeue")) == 2


def test_answers_age(slurm):
    """An answer older than the interval is not given any more."""
    slurm.squeue("12|PENDING")
    assert ask(poll_seconds=0).state is JobState.PENDING
    slurm.squeue("12|RUNNING")
    assert ask(poll_seconds=3600).state is JobState.PENDING
    assert ask(poll_seconds=0).state is JobState.RUNNING


def test_watcher_that_hangs_does_not_hang_the_others(slurm, tmp_path, monkeypatch):
    """While one asks and never comes back, the others make do with a recent answer, or ask too."""
    slurm.squeue("12|RUNNING")
    assert ask().state is JobState.RUNNING
    (lock,) = (tmp_path / "cache").rglob("squeue*.lock")
    code = f"import filelock, time; lock = filelock.FileLock({str(lock)!r}); lock.acquire()"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; print(1, flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout.read(1) == b"1"
        slurm.squeue("12|COMPLETED")
        cache = lock.with_suffix(".json")
        old = {"asked_at": time.time() - 45, "as_of": time.time() - 45}
        cache.write_text(json.dumps(json.loads(cache.read_text()) | old))
        monkeypatch.setattr(queue, "LOCK_SECONDS", 3600)
        assert ask(poll_seconds=30).state is JobState.RUNNING
        monkeypatch.setattr(queue, "LOCK_SECONDS", 0.2)
        assert ask(poll_seconds=20).state is JobState.SUCCEEDED
        slurm.squeue("12|CANCELLED")
        assert ask(fresh=True).state is JobState.CANCELLED
    finally:
        holder.kill()
        holder.communicate()


def test_job_submitted_after_the_last_answer_is_pending(slurm):
    """A new job is not in an old answer; that is no reason to ask again, nor to doubt."""
    slurm.squeue("11|RUNNING")
    ask("11")
    answer = ask("12", submitted_at=time.time())
    assert answer.state is JobState.PENDING
    assert answer.reason == "submitted 0 s ago"
    assert len(slurm.calls("squeue")) == 1
    assert not slurm.calls("sacct")


def test_scheduler_that_is_down_is_unknown_and_not_asked_more_often(slurm):
    """What was known last is said with its age; ten looks cost one question."""
    slurm.squeue("12|RUNNING")
    ask()
    slurm.answer("squeue", error=DOWN)
    answer = ask(poll_seconds=0)
    assert answer.state is JobState.UNKNOWN
    assert "Unable to contact slurm controller" in answer.reason
    assert "(RUNNING 0 s ago)" in answer.reason
    for _ in range(10):
        assert ask().state is JobState.UNKNOWN
    assert len(slurm.calls("squeue")) == 2


def test_damaged_cache_is_no_answer(slurm, tmp_path):
    """A cache that cannot be read, or is from the future, or of another version, is made anew."""
    slurm.squeue("12|RUNNING")
    ask()
    (cache,) = (tmp_path / "cache").rglob("squeue*.json")
    future = json.loads(cache.read_text()) | {"asked_at": time.time() + 86400, "jobs": {}}
    for content in ("{", "[]", json.dumps({"version": 2}), json.dumps(future)):
        cache.write_text(content)
        assert ask().state is JobState.RUNNING


def test_cache_that_cannot_be_written_costs_questions_only(slurm, tmp_path, monkeypatch):
    """A home directory that is full or read-only: every look asks, and gets an answer."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    slurm.squeue("12|RUNNING")
    assert ask().state is JobState.RUNNING
    assert ask().state is JobState.RUNNING


def test_own_settings_of_squeue_do_not_change_its_answer(slurm, monkeypatch):
    """SQUEUE_FORMAT and the like are for people."""
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "relative")
    slurm.squeue("12|RUNNING")
    ask()
    given = slurm.environment("squeue")
    assert not [name for name in given if name.startswith(("SQUEUE_", "SLURM_CLUSTERS"))]
    assert given["SLURM_TIME_FORMAT"] == "%s"


# The accounting


def test_forgotten_job_is_looked_up_in_the_accounting(slurm):
    """Steps that were out of memory and who has cancelled are in there, too."""
    slurm.squeue()
    slurm.answer(
        "sacct",
        "12|FAILED|5\n12.batch|FAILED|5\n12.0|OUT_OF_MEMORY|5\n"
        "13|CANCELLED by 0|5\n14_1|TIMEOUT|5\n15|COMPLETED|5\n",
    )
    assert ask("12").cause is Cause.OUT_OF_MEMORY
    assert ask("13").reason == "cancelled by root"
    assert ask("14_1").cause is Cause.TIME_LIMIT
    assert ask("15").state is JobState.SUCCEEDED
    assert ask("16").is_forgotten
    assert len(slurm.calls("sacct")) == 1


def test_failed_job_of_a_step_without_memory_is_out_of_memory(slurm):
    """To squeue such a job is FAILED only."""
    now = time.time()
    slurm.squeue(f"12|FAILED|1|{now - 5:.0f}|NonZeroExitCode")
    slurm.answer("sacct", "12|FAILED|5\n12.0|OUT_OF_MEMORY|5\n")
    assert ask().cause is Cause.OUT_OF_MEMORY
    slurm.answer("sacct", error=NO_ACCOUNTING)
    assert ask().cause is Cause.OUT_OF_MEMORY
    assert len(slurm.calls("sacct")) == 1


def test_accounting_is_asked_rarely_for_older_and_older_runs(slurm):
    """`ls` looks at old runs one after another: each must not cost a question of its own."""
    slurm.squeue()
    slurm.answer("sacct", "12|COMPLETED|5\n")
    now = time.time()
    for days in range(100):
        ask("12", submitted_at=now - days * 86400)
    assert len(slurm.calls("sacct")) <= 5
    ask("12", poll_seconds=0, submitted_at=now)
    count = len(slurm.calls("sacct"))
    ask("12", submitted_at=now - 50 * 86400)
    assert len(slurm.calls("sacct")) == count


def test_site_without_accounting_is_remembered_and_said(slurm):
    """Its sacct is asked once, and what that said is the reason why the state is unknown."""
    slurm.squeue()
    slurm.answer("sacct", error=NO_ACCOUNTING)
    for _ in range(5):
        answer = ask(poll_seconds=0)
    assert answer.state is JobState.UNKNOWN
    assert answer.is_forgotten
    assert "forgotten job 12" in answer.reason
    assert "accounting storage is disabled" in answer.reason
    assert len(slurm.calls("sacct")) == 1


# The job


def begin_attempt(run: Run, **changes) -> None:
    """Write the record of an attempt that begins now."""
    record = {"number": 0, "key": "k", "started_at": time.time(), "goes_on": False, **changes}
    run.write("attempt_0", record)


def test_run_that_tells_of_itself_is_younger_than_slurms_answer(slurm, tmp_path):
    """An attempt that began or ended after SLURM was asked is believed."""
    slurm.squeue("12|PENDING")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    job = SlurmJob(run, run.read("job"), 3600)
    assert job.status().state is JobState.PENDING
    begin_attempt(run)
    assert job.status().state is JobState.RUNNING
    slurm.squeue("12|RUNNING")
    assert ask(fresh=True).state is JobState.RUNNING
    begin_attempt(run, ended_at=time.time(), goes_on=True)
    assert job.status().state is JobState.PENDING


def test_end_that_was_seen_once_is_not_forgotten(slurm, tmp_path):
    """SLURM forgets jobs within minutes, and many sites have no accounting."""
    slurm.squeue("12|TIMEOUT")
    slurm.answer("sacct", error=NO_ACCOUNTING)
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    job = SlurmJob(run, run.read("job"), 0)
    assert job.status().cause is Cause.TIME_LIMIT
    slurm.squeue()
    told = job.status()
    assert (told.state, told.cause) == (JobState.INTERRUPTED, Cause.TIME_LIMIT)
    other = SlurmJob(run, {**run.read("job"), "job_id": "13"}, 0)  # resumed
    slurm.squeue("13|RUNNING")
    assert other.status().state is JobState.RUNNING
    begin_attempt(run)  # requeued by hand
    assert job.status().state is JobState.UNKNOWN


def test_job_that_failed_before_its_nodes_began_speaks_by_its_script(slurm, tmp_path):
    """A module or a file system that is not there: the reason is the last line that it printed."""
    slurm.squeue("12_1|FAILED|1|2|NonZeroExitCode")
    run = make_run(make_plan(tmp_path), {"job_id": "12_1", "job_dir": str(tmp_path)})
    log = tmp_path / "12_1_0_log.out"
    log.write_text("loading\nno such module: cuda\n\n")
    job = SlurmJob(run, run.read("job"), 0)
    assert job.status().reason == f"its job failed: no such module: cuda (see {log})"
    other = make_run(make_plan(tmp_path), {"job_id": "12_1", "job_dir": str(tmp_path)})
    begin_attempt(other)
    assert SlurmJob(other, other.read("job"), 0).status().reason == "its job failed"


def test_cancel_is_written_down_before_slurm_is_told(slurm, tmp_path):
    """The job that is told to end reads it, and does not requeue itself."""
    slurm.squeue("12_3|RUNNING")
    run = make_run(make_plan(tmp_path), {"job_id": "12_3"})
    gone = "12_3|CANCELLED|1|2|None"
    record = run.launch_directory / "cancel.json"
    hook = f"cp {record} seen && echo '{gone}' > squeue.out"
    slurm.answer("scancel", hook=hook)
    job = SlurmJob(run, run.read("job"), 30)
    job.cancel()
    assert slurm.calls("scancel") == ["scancel 12_3"]
    assert (slurm.directory / "seen").exists()
    told = job.status()
    assert (told.state, told.cause) == (JobState.CANCELLED, Cause.CANCEL)
    assert told.reason == "cancelled by its user"
    job.cancel()
    assert len(slurm.calls("scancel")) == 1


def test_cancel_waits_until_the_job_has_left(slurm, tmp_path, monkeypatch):
    """A job that is ending is still there; one that never leaves is an error."""
    monkeypatch.setattr("getiaction_launch.backends.slurm.job.CANCEL_SECONDS", 0.3)
    monkeypatch.setattr("getiaction_launch.backends.slurm.job.POLL_SECONDS", 0.05)
    slurm.squeue("12|COMPLETING")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    with pytest.raises(UnreachableError, match="job 12 of run act/version_0 does not end"):
        SlurmJob(run, run.read("job"), 30).cancel()
    monkeypatch.setattr("getiaction_launch.backends.slurm.job.CANCEL_SECONDS", 3600)
    slurm.answer("scancel", error="scancel: error: Kill job error on job id 12: Access denied")
    with pytest.raises(UnreachableError, match="Access denied"):
        SlurmJob(run, run.read("job"), 30).cancel()
    slurm.answer("scancel", error=DOWN)
    with pytest.raises(UnreachableError, match="does not answer scancel"):
        SlurmJob(run, run.read("job"), 30).cancel()


def test_cancel_of_a_job_that_slurm_has_forgotten_is_no_error(slurm, tmp_path):
    """It cannot run any more, and the run is then known as cancelled."""
    slurm.squeue()
    slurm.answer("sacct", error=NO_ACCOUNTING)
    slurm.answer("scancel", error="scancel: error: Kill job error: Invalid job id specified")
    run = make_run(make_plan(tmp_path), {"job_id": "12", "submitted_at": 5})
    job = SlurmJob(run, run.read("job"), 30)
    job.cancel()
    assert job.status().state is JobState.CANCELLED


def test_cancel_reaches_the_successor_too(slurm, tmp_path):
    """A job that hands over while it is cancelled: the one that it has submitted goes as well."""
    slurm.squeue("12|RUNNING", "13|PENDING")
    run = make_run(make_plan(tmp_path), {"job_id": "12"})
    record = {**run.read("job"), "job_id": "13"}
    (slurm.directory / "successor").write_text(json.dumps(record))
    hook = f"""cp successor {run.launch_directory}/job.json
[ $1 = 12 ] && other='13|PENDING' || other='13|CANCELLED'
for job in '12|CANCELLED' "$other"; do echo "$job|1|2|None"; done > squeue.out"""
    slurm.answer("scancel", hook=hook)
    SlurmJob(run, run.read("job"), 30).cancel()
    assert slurm.calls("scancel") == ["scancel 12", "scancel 13"]


def test_step_of_the_users_own_job_is_cancelled_alone(slurm, tmp_path):
    """The allocation, perhaps an interactive one, stays; the step may save."""
    slurm.squeue("12|RUNNING")
    run = make_run(make_plan(tmp_path), {"job_id": "12", "step_id": "0"})
    slurm.answer("scancel", hook="echo > squeue.out")
    SlurmJob(run, run.read("job"), 30).cancel()
    assert slurm.calls("scancel") == ["scancel --signal=TERM 12.0"]
    assert "--steps=12.0" in slurm.calls("squeue")[-1]


def test_cancelled_step_is_over_although_its_job_is_queued_again(slurm, tmp_path):
    """The user's batch script may do other things then; the run stays cancelled until resumed."""
    slurm.squeue("12|PENDING|N/A|N/A|BeginTime")
    run = make_run(make_plan(tmp_path), {"job_id": "12", "step_id": "0"})
    assert SlurmJob(run, run.read("job"), 0).status().state is JobState.PENDING
    run.write("cancel", {"requested_at": time.time()})
    told = SlurmJob(run, run.read("job"), 0).status()
    assert (told.state, told.cause) == (JobState.CANCELLED, Cause.CANCEL)
    whole = make_run(make_plan(tmp_path), {"job_id": "12"})
    whole.write("cancel", {"requested_at": time.time()})
    assert SlurmJob(whole, whole.read("job"), 0).status().state is JobState.PENDING
