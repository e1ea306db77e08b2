"""A checkpoint that this user has not saved here runs no code when it is loaded."""

import collections
import contextlib
import os
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from getiaction_launch.errors import CheckError
from getiaction_launch.run.checkpoint import Marker, commit, partial_path
from getiaction_launch.run.run import Run
from getiaction_launch.worker.saving.origin import allow_own_classes, weights_only_for


@dataclass
class Config:
    """A class of the user's, in hyperparameters."""

    lr: float


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch PWNED",)


def save(run: Run, content: object, *, is_downloaded: bool) -> Path:
    """Commit a checkpoint."""
    partial = partial_path(run, 0, 1)
    partial.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        torch.save(content, partial)
    else:
        partial.mkdir()
        (partial / ".metadata").write_bytes(pickle.dumps(content))
    about = {"fit": 0, "step": 1, "epoch": 0, "reason": "period", "saved_at": time.time()}
    path = commit(run, attempt=0, **about).path
    if is_downloaded:
        replace(Marker.read(path), sha256="0" * 64).write(path)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in a directory."""
    monkeypatch.chdir(tmp_path)
    return Run.claim(str(tmp_path), "act")


def program(path: Path, **hparams: object) -> tuple[SimpleNamespace, SimpleNamespace]:
    """A Trainer that resumes, and a model with hyperparameters."""
    trainer = SimpleNamespace(ckpt_path=str(path), datamodule=None)
    return trainer, SimpleNamespace(hparams=hparams)


def test_own_checkpoints_are_loaded_as_they_were_saved(run):
    """Objects included; one that holds none is loaded with weights only all the same."""
    path = save(run, {"hyper_parameters": {"config": Config(0.1)}}, is_downloaded=False)
    assert weights_only_for(path) is False
    allow_own_classes(*program(path))
    path = save(run, {"weights": torch.ones(2)}, is_downloaded=False)
    assert weights_only_for(path) is True


def test_downloaded_checkpoint_may_hold_the_classes_of_the_program(run):
    """What the hyperparameters of the program consist of anyway is loaded."""
    content = {"hyper_parameters": {"config": Config(0.1)}, "weights": torch.ones(2)}
    path = save(run, content, is_downloaded=True)
    assert weights_only_for(path) is True
    with pytest.raises(CheckError, match=r"more than weights: .*\.Config"):
        allow_own_classes(*program(path))
    allow_own_classes(*program(path, config=Config(0.3)))
    loaded = torch.load(path, weights_only=True)
    assert loaded["hyper_parameters"]["config"] == Config(0.1)


@pytest.mark.parametrize("is_foreign", [True, False], ids=["another user", "downloaded"])
def test_foreign_checkpoint_runs_no_code(run, is_foreign):
    """It is refused by the names of what it holds."""
    path = save(run, {"x": Evil()}, is_downloaded=not is_foreign)
    if is_foreign:
        if os.getuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 12345, -1)
    assert weights_only_for(path) is True
    with pytest.raises(CheckError, match=r"not saved by you.*: posix\.system"):
        allow_own_classes(*program(path, config=Config(0.1)))
    with pytest.raises(CheckError, match=r"posix\.system"):
        allow_own_classes(*program(path, run=os.system))  # not even if the program has it
    assert not Path("PWNED").exists()


def test_index_of_a_downloaded_folder_runs_no_code(run, tmp_path):
    """torch.distributed.checkpoint unpickles it without limits, so it is read first."""
    path = save(run, [Evil()], is_downloaded=True)
    with pytest.raises(CheckError, match="posix"):
        weights_only_for(path)
    assert not Path("PWNED").exists()
    state = {"model": {"w": torch.ones(4)}, "epoch": 3, "optimizer": [{"lr": 0.1}]}
    dcp.save(state, checkpoint_id=tmp_path / "whole", no_dist=True)
    (path / ".metadata").write_bytes((tmp_path / "whole/.metadata").read_bytes())
    assert weights_only_for(path) is True


@pytest.mark.parametrize(
    ("owner", "name", "is_taken"),
    [
        (_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT", True),
        (_MEM_FORMAT_ENCODING, "__class__", False),
        (collections.OrderedDict, "fromkeys", False),
    ],
)
def test_index_may_name_a_member_of_an_enumeration_as_earlier_pythons_do(
    run, owner, name, is_taken
):
    """Before 3.11.4 by ``getattr``, which reaches nothing else here."""

    class Reaching:
        def __reduce__(self):
            return getattr, (owner, name)

    path = save(run, [Reaching()], is_downloaded=True)
    with contextlib.nullcontext() if is_taken else pytest.raises(CheckError, match="getattr"):
        assert weights_only_for(path) is True
