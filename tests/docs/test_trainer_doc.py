"""docs/trainer.md: every Python block of it runs."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

import getiaction.train
from getiaction.data.dot import write_dot_dataset
from getiaction.policies.act.resnet import ResNet
from getiaction.train import Trainer

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"
USAGE, INTERFACE, CALLBACK, *EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE
)


def _run(block: str) -> dict[str, Any]:
    names = {"Trainer": Trainer, "lightning": lightning, "Logger": Logger, "Callback": Callback}
    exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - the page's code is ours
    return names


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run a block in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_page_has_the_blocks_that_are_run_here() -> None:
    """Usage, interface, callback and three examples: a new block needs a test of its own."""
    assert len(EXAMPLES) == 3


def test_usage(directory: Path) -> None:
    """The first block trains ACT on lerobot/pusht, names an experiment, and takes a logger.

    Shortened: of 100 epochs one step is made, and no checkpoint of the 50 million parameters is
    written (PL_TRAINER_*). Without network: lerobot/pusht in the Hugging Face cache is a tiny
    dataset of the same kind, and the ImageNet weights in torch's cache are random.
    """
    snapshot = directory / "hf/hub/datasets--lerobot--pusht/snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    write_dot_dataset(snapshot, num_episodes=1, image_size_px=16)
    reference = snapshot.parents[1] / "refs/v3.0"
    reference.parent.mkdir()
    reference.write_text(snapshot.name)
    weights = directory / "torch/hub/checkpoints/resnet18-f37072fd.pth"
    weights.parent.mkdir(parents=True)
    torch.save(ResNet("resnet18", norm="frozen_batch_norm").state_dict(), weights)
    (directory / "train.py").write_text(USAGE)
    subprocess.run(
        [sys.executable, "train.py"],
        cwd=directory,
        check=True,
        timeout=240,
        env={
            **os.environ,
            "HF_HOME": str(directory / "hf"),
            "HF_HUB_OFFLINE": "1",
            "TORCH_HOME": str(directory / "torch"),
            "PL_TRAINER_MAX_STEPS": "1",
            "PL_TRAINER_ENABLE_CHECKPOINTING": "False",
        },
    )
    run = directory / "experiments/lightning_logs/version_0"
    assert (run / "hparams.yaml").is_file()
    assert list(run.glob("events.out.tfevents.*"))


def test_interface_is_the_trainers() -> None:
    """The parameters on the page are the Trainer's, with its defaults and keyword-only."""
    page = inspect.signature(_run(INTERFACE)["Trainer"].__init__).parameters
    ours = inspect.signature(Trainer.__init__).parameters
    for name, parameter in page.items():
        assert parameter.kind == ours[name].kind, name
        assert parameter.default == ours[name].default, name


def test_callback_is_ours() -> None:
    """The hooks on the page are those that our callback has, with their arguments."""
    page = _run(CALLBACK)["PolicyDatasetInteraction"]
    ours = getiaction.train.PolicyDatasetInteraction
    for name in ("setup", "on_fit_start"):
        arguments = inspect.signature(getattr(ours, name)).parameters
        assert list(inspect.signature(getattr(page, name)).parameters) == list(arguments)
        assert name in vars(ours)


@pytest.mark.parametrize("block", EXAMPLES)
def test_examples(directory: Path, block: str) -> None:
    """The Trainers on the page can be made; with fewer GPUs than asked for, that is the error."""
    assert directory
    devices = re.search(r'accelerator="gpu",\n +devices=(\d+)', block)
    if devices and int(devices[1]) > torch.cuda.device_count():
        with pytest.raises(MisconfigurationException, match=r"(?i)gpu"):
            _run(block)
    else:
        assert isinstance(_run(block)["trainer"], lightning.Trainer)
