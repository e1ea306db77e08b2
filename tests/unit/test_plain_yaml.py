"""Specs with values of a class that is more special than their parameter's type."""

import sys
from pathlib import Path

import pytest
import yaml

from getiaction.cli import CLI

MODULE = """\
from enum import Enum, IntEnum

import numpy as np
from lightning.pytorch import Callback

class Mode(str, Enum):
    FAST = "quick"

class Level(IntEnum):
    HIGH = 2

class Plain(Enum):
    A = "a"

class Odd(Callback):
    def __init__(
        self,
        mode: str = Mode.FAST,
        level: int = Level.HIGH,
        lr: float = np.float64(0.1),
        names: list[str] = [Mode.FAST],
        either: str | Mode = Mode.FAST,
        enumeration: Plain = Plain.A,
    ):
        self.given = [mode, level, lr, names, either, enumeration]
"""

SPEC = """\
trainer:
  accelerator: cpu
  logger: true
  limit_train_batches: 1
  limit_val_batches: 0
  max_epochs: 1
  callbacks:
  - class_path: lightning.pytorch.callbacks.Timer
    init_args: {duration: "00:08:00:00"}
  - more_special.Odd
model: lightning.pytorch.demos.boring_classes.BoringModel
data: lightning.pytorch.demos.boring_classes.BoringDataModule
"""


def test_value_of_a_subclass_is_written_as_the_plain_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An enumeration's text or number, numpy's float: printed, saved, and read back as the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "more_special.py").write_text(MODULE)
    (tmp_path / "spec.yaml").write_text(SPEC)
    with pytest.raises(SystemExit) as end:
        CLI(["fit", "--config", "spec.yaml", "--print_config"])
    assert not end.value.code
    printed = capsys.readouterr().out
    callbacks = yaml.safe_load(printed)["trainer"]["callbacks"]
    assert callbacks[0]["init_args"]["interval"] == "step"
    assert callbacks[1]["init_args"] == {
        "mode": "quick",
        "level": 2,
        "lr": 0.1,
        "names": ["quick"],
        "either": "FAST",
        "enumeration": "A",
    }
    (tmp_path / "printed.yaml").write_text(printed)
    first, second = (
        CLI(["fit", "--config", name]).trainer for name in ("spec.yaml", "printed.yaml")
    )
    given = [
        next(c.given for c in each.callbacks if hasattr(c, "given")) for each in (first, second)
    ]
    assert given[0] == given[1]
    assert [type(value) for value in given[1][:3]] == [str, int, float]
    saved = yaml.safe_load(Path(str(first.log_dir), "config.yaml").read_text())
    assert saved["trainer"]["callbacks"] == callbacks
