"""The batch script that the SLURM backend writes, and the settings that it refuses."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fake_slurm import make_plan

from getiaction_launch.backends.slurm import SlurmBackend, command
from getiaction_launch.errors import (
    ClusterConfigError,
    RefusedError,
    UnreachableError,
)
from getiaction_launch.launch.cluster import ClusterConfig, read_cluster
from getiaction_launch.plan.plan import Topology

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
