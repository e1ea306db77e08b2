"""Batch scripts of the user's own: each one in ``examples/hpc`` is submitted as it stands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from drill import assert_same

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 240
EPOCHS = "1"

pytestmark = pytest.mark.parametrize("cluster", ["slurm"], indirect=True)


@pytest.fixture
def on_login_node(cluster, tmp_path, monkeypatch):
    """Run a command on the login node, in a directory with the examples, Python on the path."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the nodes claim more CPUs than there are
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            cluster.typed(*words),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )

    return run


def output(directory: Path) -> str:
    """What the batch script has printed."""
    return "".join(path.read_text() for path in directory.glob("slurm-*.out"))


def test_launcher_inside_a_batch_script(on_login_node, getiaction_launch, tmp_path):
    """``srun getiaction-launch node``: a run like any other, with status, logs and records."""
    result = on_login_node(
        "sbatch", "--wait", "examples/hpc/launcher.sh", f"--trainer.max_epochs={EPOCHS}"
    )
    assert result.returncode == 0, result.stderr + output(tmp_path)
    status = json.loads(getiaction_launch("status", "--json", "@last").stdout)
    assert (status["run"], status["state"]) == ("act_tiny/version_0", "SUCCEEDED")
    assert "MEMBER: 2/2" in getiaction_launch("logs", "@last").stdout
    assert len(list((tmp_path / "experiments/act_tiny").iterdir())) == 1


def test_plain_srun_of_a_script(on_login_node, tmp_path, monkeypatch):
    """``srun python train.py``, one task per device: Trainer follows SLURM, both ranks one run."""
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "3")
    result = on_login_node("sbatch", "--wait", "examples/hpc/plain.sh", "--max-epochs", EPOCHS)
    assert result.returncode == 0, result.stderr + output(tmp_path)
    assert "MEMBER: 2/2" in output(tmp_path)
    (version,) = (tmp_path / "experiments/dot_act").iterdir()
    assert len(list(version.glob("checkpoints/*.ckpt"))) == 1


def test_interactive_allocation(on_login_node, getiaction_launch, tmp_path):
    """Under ``salloc`` the same spec can be tried again and again, a run each time."""
    salloc = ["salloc", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2"]
    spec = ["--config", "examples/act_tiny.yaml", f"--trainer.max_epochs={EPOCHS}"]
    command = f"examples/hpc/interactive.sh {' '.join(spec)}"
    result = on_login_node(*salloc, "bash", "-c", f"{command} && {command}")
    assert result.returncode == 0, result.stderr
    runs = json.loads(getiaction_launch("ls", "--json").stdout)["runs"]
    assert [(run["run"], run["state"]) for run in runs] == [
        ("act_tiny/version_1", "SUCCEEDED"),
        ("act_tiny/version_0", "SUCCEEDED"),
    ]
    assert len(list((tmp_path / "experiments/act_tiny").iterdir())) == len(runs)


THREE_STEPS = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=1
srun getiaction-launch node --config act.yaml --nodes 2
while [ ! -e second ]; do sleep 0.2; done
srun getiaction-launch node @last
while [ ! -e third ]; do sleep 0.2; done
srun getiaction-launch node @last
"""


def test_later_steps_go_on_with_a_run(drill, undisturbed, on_login_node, until):
    """A step that was killed has failed, one that was cancelled has saved; the last one finishes.

    All in one allocation, which runs on, so that SLURM's word for the job says nothing of them.
    """
    (drill.directory / "three.sh").write_text(THREE_STEPS)
    (drill.directory / "pace").write_text("0.8")
    job_id = on_login_node("sbatch", "--parsable", "three.sh").stdout.strip()
    drill.run = drill.directory / "experiments/act_tiny/version_0"

    until(lambda: drill.step() >= 2, LIMIT_SECONDS)
    assert drill.state() == "RUNNING"
    done = drill.launch("exec", "--rank", "1", str(drill.run), "--", "printenv", "GROUP_RANK")
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    on_login_node("scancel", f"{job_id}.0")  # SIGKILL
    until(lambda: drill.state() == "FAILED")

    (drill.directory / "second").touch()
    drill.await_attempt(1)
    begun_at = drill.record("attempt_1")["started_at"]
    until(lambda: drill.record("progress")["updated_at"] > begun_at, LIMIT_SECONDS)
    until(lambda: drill.step() >= 4, LIMIT_SECONDS)
    assert drill.launch("cancel", str(drill.run)).returncode == 0
    assert drill.state() == "CANCELLED"
    assert on_login_node("squeue", "--noheader", f"--jobs={job_id}").stdout
    saved = drill.record("attempt_1")["last_step"]

    (drill.directory / "third").touch()
    drill.await_attempt(2)
    trained = drill.finish()
    assert drill.record("attempt_2")["first_step"] == saved >= 4
    assert_same(trained, undisturbed)


def test_geometry_that_is_not_the_trainer_s_is_refused(on_login_node, tmp_path):
    """Two nodes asked of SLURM, one of the Trainer: every task says so, and nothing hangs."""
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1", "getiaction-launch", "node"]
    result = on_login_node(*srun, "examples/act_tiny.yaml")
    assert result.returncode != 0
    assert "num_nodes=1, but this step has 2 tasks on 2 nodes" in result.stderr
    assert "--nodes=2" in result.stderr
    assert not (tmp_path / "experiments").exists()


def test_node_outside_of_slurm_says_where_it_belongs(on_login_node):
    """Typed on a login node by mistake."""
    result = on_login_node("getiaction-launch", "node", "examples/act_tiny.yaml")
    assert result.returncode == 2
    assert "srun --ntasks-per-node=1 getiaction-launch node" in result.stderr
