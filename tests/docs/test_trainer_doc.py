"""docs/trainer.md: every Python block of it runs."""

import inspect
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


def test_usage(directory: Path, shortened: dict[str, str]) -> None:
    """The first block trains ACT on lerobot/pusht, names an experiment, and takes a logger.

    Of 100 epochs one step is made, and the hub's files are stand-ins: see `shortened`.
    """
    (directory / "train.py").write_text(USAGE)
    subprocess.run(
        [sys.executable, "train.py"], cwd=directory, check=True, timeout=240, env=shortened
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
