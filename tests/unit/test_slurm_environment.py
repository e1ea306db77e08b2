"""Of the environment a job gets what was asked for, whatever the shell inherited."""

import os

import pytest
from fake_slurm import make_plan, make_run

from getiaction_launch.backends.slurm import SlurmBackend

pytestmark = pytest.mark.usefixtures("slurm")

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


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ({"partition": "gpu"}, ["PARTITION"]),
        ({"account": "lab"}, ["ACCOUNT"]),
        ({"qos": "high"}, ["QOS"]),
        ({"constraint": "ib"}, ["CONSTRAINT"]),
        ({"time_limit_minutes": 9}, ["TIMELIMIT"]),
        ({"memory_mb": 0}, ["MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU"]),
    ],
)
def test_what_the_script_asks_for_is_not_overridden(
    slurm, tmp_path, monkeypatch, settings, variables
):
    """Variables that sbatch obeys rather than the script are hidden from it, and no others."""
    names = "PARTITION ACCOUNT QOS CONSTRAINT TIMELIMIT MEM_PER_NODE MEM_PER_CPU MEM_PER_GPU"
    for name in names.split():
        monkeypatch.setenv(f"SBATCH_{name}", "1")
    SlurmBackend(**settings).submit([make_run(make_plan(tmp_path))], None)
    given = slurm.environment("sbatch")
    left = {name for name in names.split() if f"SBATCH_{name}" in given}
    assert left == set(names.split()) - set(variables)


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
