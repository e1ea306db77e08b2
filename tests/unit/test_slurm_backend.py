"""The SLURM backend's submitting side, with commands of SLURM that only say what a test tells."""

import dataclasses
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_slurm import make_plan, make_run

from getiaction_launch.backends.slurm import SlurmBackend, command, sbatch
from getiaction_launch.backends.slurm.allocation import SlurmAllocation
from getiaction_launch.errors import (
    CheckError,
    ClusterConfigError,
    LaunchError,
    RefusedError,
    UnreachableError,
)
from getiaction_launch.launch.cluster import ClusterConfig, read_cluster
from getiaction_launch.node.allocation import Limits
from getiaction_launch.node.sidecar import Sidecar
from getiaction_launch.plan.plan import Topology
from getiaction_launch.run.records import BackendRecord
from getiaction_launch.run.state import Cause

pytestmark = pytest.mark.usefixtures("slurm")


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
        ("sbatch", "requeue", "", "--max-interruptions"),
        ("sbatch", "no-requeue", "", "--max-interruptions"),
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


def test_last_word_is_sbatchs(slurm, tmp_path):
    """What only sbatch knows is passed on in its words, with what to try."""
    said = "sbatch: error: Batch job submission failed: Invalid account or account/partition"
    slurm.answer("sbatch", error=said)
    with pytest.raises(RefusedError, match=r"Invalid account.*\nName your account: -A") as error:
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


def test_successor_waits_for_its_job_and_remembers_it(slurm, tmp_path, monkeypatch):
    """Where a job cannot be requeued, the next one of its run starts when it has gone."""
    run = make_run(make_plan(tmp_path))
    SlurmBackend().submit([run], None)
    slurm.answer("sbatch", "Submitted batch job 13")
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    allocation = SlurmAllocation(BackendRecord(), Limits(1), Sidecar, {})
    assert allocation.hand_over(run) is None
    record = run.read("job")
    assert (record["job_id"], record["previous_job_ids"]) == ("13", ["12"])
    script = Path(record["job_dir"], "13_submission.sh").read_text()
    assert "--dependency=afterany:12" in script
    own = make_run(make_plan(tmp_path), {"job_id": "5", "step_id": "0"})
    assert "your own" in allocation.hand_over(own)


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


ODD = (
    *("100%", "a%j", "%u", "a\\b", "a\\", "a b", " a ", "-x", "it's", 'say "hi"', "$HOME", "`id`"),
    *("a #b", "größe 手", "a;b&c", "*[1]{2}", "!", "~a", "x" * 240),
)


def header(script: str) -> dict[str, str]:
    """Read a script's header as sbatch 22.05 does: a backslash escapes also between quotes."""
    values = {}
    for line in script.splitlines():
        if line.startswith("#SBATCH --"):
            text, quote, value = iter(line.removeprefix("#SBATCH --")), "", ""
            for character in text:
                if character == "\\":
                    value += next(text)
                elif character in "'\"" and quote in ("", character):
                    quote = "" if quote else character
                else:
                    value += character
            key, _, value = value.partition("=")
            values[key] = value
    return values


@pytest.mark.parametrize("name", ODD)
def test_names_and_paths_of_every_kind_reach_slurm_as_they_are(slurm, tmp_path, name):
    """Where SLURM cannot have one in a log's path, this is said before anything is submitted."""
    place = tmp_path / "work" / name
    place.mkdir(parents=True)
    plan = make_plan(tmp_path, name=name, working_directory=str(place), root=str(place / "runs"))
    backend = SlurmBackend(python="python3", sbatch={"comment": name})
    if "%" in name or "\\" in name:
        with pytest.raises(CheckError, match="job_dir: ~/slurm_jobs"):
            backend.check(plan)
        assert not slurm.calls("sbatch")
        backend = dataclasses.replace(backend, job_dir=str(tmp_path / "jobs"))
    backend.check(plan)
    run = make_run(plan)
    backend.submit([run], None)
    folder = Path(run.read("job")["job_dir"])
    (script,) = folder.glob("*_submission.sh")
    values = header(script.read_text())
    assert values["job-name"] == values["comment"] == name
    assert values["chdir"] == str(place)
    assert values["output"] == f"{folder}/%j_0_log.out"
    assert "%" not in str(folder)
    assert "\\" not in str(folder)


@pytest.mark.parametrize("where", ["name", "working_directory", "comment", "root"])
def test_line_ends_are_no_options(slurm, tmp_path, where):
    """A second line of the header would be another option."""
    odd = "a\n#SBATCH --partition=evil"
    changes = {} if where == "comment" else {where: f"/{odd}" if "_" in where else odd}
    plan = make_plan(tmp_path, **changes)
    with pytest.raises(LaunchError, match=r"control characters|cannot write its logs|newline"):
        SlurmBackend(sbatch={"comment": odd} if where == "comment" else {}).check(plan)
    assert not slurm.calls("sbatch")


def test_log_names_what_the_kernel_killed(slurm, tmp_path, monkeypatch):
    """While the step still runs, only srun's line says why another node's task is gone."""
    log = tmp_path / "2_0_log.out"
    start = {"SLURM_JOB_ID": "2", "SLURM_STEP_ID": "0", "SLURM_JOB_NODELIST": "n1"}
    for name, value in start.items():
        monkeypatch.setenv(name, value)
    slurm.answer("scontrol", f"JobState=RUNNING Reason=None\n   StdOut={log}\n   Power=\n")
    allocation = SlurmAllocation(BackendRecord(), Limits(1), Sidecar, {})
    log.write_text("start 2.0.0 of this job\nsrun: error: n2: task 1: Killed\n")
    assert allocation.stop_cause(signal.SIGTERM) is None
    log.write_text("start 2.0.0 of this job\nsrun: error: n2: task 1: Out Of Memory\n")
    assert allocation.stop_cause(signal.SIGTERM) is Cause.OUT_OF_MEMORY


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
    with pytest.raises(RefusedError, match="rejected by SLURM: Job dependency problem"):
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


@pytest.mark.parametrize(
    ("settings", "said", "named"),
    [
        ({"nodelist": "n99"}, "Invalid node name specified", "-w n99"),
        ({"exclude": "n9"}, "Invalid node name specified", "-x n9"),
        ({"account": "a"}, "Invalid account or account/partition combination", "-A a"),
        ({"qos": "q"}, "Invalid qos specification", "-q q"),
        ({"constraint": "c"}, "Invalid feature specification", "-C c"),
        ({"memory_mb": 9}, "Memory specification can not be satisfied", "--mem 9"),
        ({"sbatch": {"reservation": "x"}}, "Requested reservation is invalid", "--sbatch reservat"),
        ({"gpu_type": "a"}, "Invalid generic resource (gres) specification", "--gpus-per-node a"),
        ({"partition": "main"}, "Invalid node name specified", "rejected by SLURM"),
    ],
)
def test_refusal_names_the_flag_that_slurm_means(slurm, tmp_path, settings, said, named):
    """With its value, SLURM's words and a fix; a setting that SLURM did not mean is not named."""
    slurm.answer("sbatch", error=f"sbatch: error: Batch job submission failed: {said}")
    with pytest.raises(RefusedError) as refused:
        SlurmBackend(**settings).check(make_plan(tmp_path))
    assert refused.value.what.startswith(named)
    assert f"rejected by SLURM: Batch job submission failed: {said}" in refused.value.what
    assert refused.value.fix
