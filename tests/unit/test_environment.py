"""A Trainer follows torchrun or srun, or says what contradicts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from getiaction.train import Trainer
from getiaction.train.environment import follow_starter

pytestmark = pytest.mark.usefixtures("directory")


def _set_torchrun(monkeypatch: pytest.MonkeyPatch, nodes: int, workers: int) -> None:
    variables = {
        "TORCHELASTIC_RUN_ID": "run",
        "GROUP_WORLD_SIZE": nodes,
        "LOCAL_WORLD_SIZE": workers,
        "WORLD_SIZE": nodes * workers,
        "RANK": 0,
        "LOCAL_RANK": 0,
        "GROUP_RANK": 0,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("devices", ["auto", -1, "-1", 2, "2"])
@pytest.mark.parametrize("num_nodes", [1, 3])
def test_nodes_and_devices_follow_torchrun(
    monkeypatch: pytest.MonkeyPatch, devices: str | int, num_nodes: int
) -> None:
    """Left at their defaults, or equal to torchrun's, they become torchrun's 3 x 2."""
    _set_torchrun(monkeypatch, nodes=3, workers=2)
    trainer = Trainer(accelerator="cpu", devices=devices, num_nodes=num_nodes)
    assert (trainer.num_nodes, trainer.num_devices, trainer.world_size) == (3, 2, 6)


@pytest.mark.parametrize("devices", [[2, 3], "2,3"], ids=str)
def test_chosen_devices_as_many_as_torchruns_are_kept(
    monkeypatch: pytest.MonkeyPatch, devices: list[int] | str
) -> None:
    """Which two GPUs to use is the user's word; that they are two is torchrun's too."""
    _set_torchrun(monkeypatch, nodes=3, workers=2)
    assert follow_starter(1, devices, None) == (3, devices)


@pytest.mark.parametrize(
    ("devices", "count"), [(4, 4), ("4", 4), ([0, 1, 2], 3), ("0,", 1)], ids=str
)
def test_devices_that_contradict_torchrun(
    monkeypatch: pytest.MonkeyPatch, devices: list[int] | str | int, count: int
) -> None:
    """The error has both numbers and the torchrun flag that would agree."""
    _set_torchrun(monkeypatch, nodes=1, workers=2)
    with pytest.raises(ValueError, match=rf"means {count} .* started 2 (.|\n)*node={count}$"):
        Trainer(devices=devices)


def test_nodes_that_contradict_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has both numbers and the torchrun flag that would agree."""
    _set_torchrun(monkeypatch, nodes=2, workers=1)
    with pytest.raises(ValueError, match=r"num_nodes=3, but torchrun started 2(.|\n)*--nnodes=3$"):
        Trainer(num_nodes=3)


def _srun(nodes: int, tasks_per_node: str, tasks: int, **others: object) -> dict[str, str]:
    """Return the variables of a task, as SLURM sets them where nothing but --ntasks is asked."""
    variables = {
        "SLURM_JOB_ID": 70041,
        "SLURM_JOB_NAME": "train.sh",
        "SLURM_NTASKS": tasks,
        "SLURM_NNODES": nodes,
        "SLURM_STEP_ID": 0,
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node,
        "SLURM_PROCID": 0,
        "SLURM_LOCALID": 0,
        "SLURM_NODEID": 0,
    }
    return {name: str(value) for name, value in (variables | others).items()}


def _set(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def _no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the Trainer itself sets in the environment."""
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")


@pytest.mark.usefixtures("_no_leak")
@pytest.mark.parametrize("devices", ["auto", -1, 2])
@pytest.mark.parametrize(
    "given", [{}, {"SLURM_NTASKS_PER_NODE": "2"}, {"SLURM_NTASKS_PER_NODE": "4"}]
)
def test_nodes_and_devices_follow_srun(
    monkeypatch: pytest.MonkeyPatch, devices: str | int, given: dict[str, str]
) -> None:
    """They become the step's 3 x 2, whether or not the job asked for tasks per node, or more."""
    _set(monkeypatch, _srun(3, "2(x3)", 6) | given)
    trainer = Trainer(accelerator="cpu", devices=devices)
    assert (trainer.num_nodes, trainer.num_devices, trainer.world_size) == (3, 2, 6)
    assert isinstance(trainer.strategy, DDPStrategy)


@pytest.mark.usefixtures("_no_leak")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 4}, r"devices=4 means 4 .* srun started 2 (.|\n)*--ntasks-per-node=4$"),
        ({"num_nodes": 2}, r"num_nodes=2, but srun started 3 \(SLURM_NNODES=3\)(.|\n)*--nodes=2$"),
    ],
)
def test_what_contradicts_srun(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    """The error has both numbers and the srun flag that would agree."""
    _set(monkeypatch, _srun(3, "2(x3)", 6))
    with pytest.raises(ValueError, match=message):
        Trainer(accelerator="cpu", **options)


@pytest.mark.usefixtures("_no_leak")
def test_unlike_numbers_of_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What --ntasks=3 makes of two nodes cannot train; the error says what would."""
    _set(monkeypatch, _srun(2, "2,1", 3))
    with pytest.raises(ValueError, match=r"3 tasks on 2 nodes \(2,1(.|\n)*--ntasks-per-node=1$"):
        Trainer(accelerator="cpu")


def test_outside_of_a_step_nothing_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in an interactive shell nor in a batch script that does without srun."""
    _set(monkeypatch, _srun(2, "2(x2)", 4, SLURM_NTASKS_PER_NODE=2))
    monkeypatch.delenv("SLURM_STEP_ID")
    for name in ("interactive", "train.sh"):
        monkeypatch.setenv("SLURM_JOB_NAME", name)
        trainer = Trainer(accelerator="cpu")
        assert (trainer.num_nodes, trainer.num_devices) == (1, 1)


def test_tasks_that_lightning_does_not_see_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """In salloc's shell the job is called "interactive", and each of srun's tasks trains alone."""
    _set(monkeypatch, _srun(2, "1(x2)", 2, SLURM_JOB_NAME="interactive", SLURM_STEP_NUM_TASKS=2))
    with pytest.warns(UserWarning, match=r"2 tasks, but each trains alone(.|\n)*--job-name=train"):
        trainer = Trainer(accelerator="cpu", strategy="ddp")
    assert isinstance(trainer.strategy.cluster_environment, LightningEnvironment)


@pytest.mark.usefixtures("_no_leak")
def test_lightnings_requeueing_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own environment is kept, in whichever way it is given, and so are other plugins."""
    _set(monkeypatch, _srun(1, "1", 1))
    other = TorchCheckpointIO()
    for plugins in (None, other, [other]):
        trainer = Trainer(accelerator="cpu", strategy="ddp", plugins=plugins)
        assert not trainer.strategy.cluster_environment.auto_requeue
        assert (trainer.strategy.checkpoint_io is other) is (plugins is not None)
    own = SLURMEnvironment()
    for options in (
        {"plugins": own},
        {"plugins": [own]},
        {"strategy": DDPStrategy(cluster_environment=own)},
    ):
        trainer = Trainer(accelerator="cpu", **({"strategy": "ddp"} | options))
        assert trainer.strategy.cluster_environment is own


@pytest.mark.usefixtures("_no_leak")
def test_a_strangers_checkpoint_is_not_resumed(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """What Lightning's requeueing leaves in a shared root belongs to some other run."""
    stray = directory / "experiments/hpc_ckpt_3.ckpt"
    stray.parent.mkdir()
    stray.touch()
    Trainer(accelerator="cpu")
    _set(monkeypatch, _srun(1, "1", 1))
    with pytest.raises(ValueError, match=rf"{stray.name} was left (.|\n)*mv .*{stray.name} "):
        Trainer(accelerator="cpu")
    Trainer(accelerator="cpu", plugins=SLURMEnvironment())


SCRIPT = """
import atexit

import torch

# Registered first, and so called last.
atexit.register(lambda: print("in a group", torch.distributed.is_initialized()))

from lightning.pytorch.demos.boring_classes import BoringModel
from getiaction.train import Trainer

trainer = Trainer(accelerator="cpu", experiment_name="a", max_steps=1, enable_progress_bar=False)
trainer.fit(BoringModel())
print("ranks", trainer.world_size, "in", trainer.log_dir)
"""


def test_tasks_of_srun_train_together_in_one_version(directory: Path) -> None:
    """An unchanged script, started as two tasks, is one run, and leaves its group at its exit."""
    (directory / "train.py").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    tasks = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            env=os.environ | _srun(1, "2", 2, SLURM_PROCID=rank, SLURM_LOCALID=rank) | place,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [task.communicate(timeout=100)[0] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [0, 0]
    assert all("ranks 2 in experiments/a/version_0" in each for each in said)
    assert all("in a group False" in each for each in said)
    assert [path.name for path in (directory / "experiments/a").iterdir()] == ["version_0"]
