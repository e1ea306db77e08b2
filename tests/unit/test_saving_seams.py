"""What saving relies on inside of Lightning: these fail first when Lightning changes."""

import contextlib
import inspect
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from lightning.fabric.utilities import cloud_io
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from tiny import EPOCHS, fit

from getiaction_launch.worker.saving import lightning_seams as seams


def test_local_files_are_spared_from_stores(monkeypatch, tmp_path):
    """Lightning looks for clients of object stores for other file systems than the local one."""
    asked = []
    monkeypatch.setattr(cloud_io, "module_available", asked.append)
    original = inspect.unwrap(cloud_io._is_object_storage)  # another test may have been here
    monkeypatch.setattr(cloud_io, "_is_object_storage", original)
    assert cloud_io._is_dir(LocalFileSystem(), tmp_path)
    assert "s3fs" in asked
    asked.clear()
    seams.spare_local_files_from_stores.__wrapped__()
    assert cloud_io._is_dir(LocalFileSystem(), tmp_path)
    assert not cloud_io._is_dir(LocalFileSystem(), tmp_path / "missing", strict=True)
    assert not asked
    assert not cloud_io._is_dir(MemoryFileSystem(), "/missing", strict=True)
    assert "s3fs" in asked


def test_writes_one_file():
    """Plain strategies take Lightning's default way of saving, sharded ones their own."""
    assert seams.writes_one_file(SingleDeviceStrategy())
    assert seams.writes_one_file(DDPStrategy())
    assert not seams.writes_one_file(FSDPStrategy())


def test_looking_ahead(tmp_path):
    """A ModelCheckpoint asks these two methods alone about files that it has saved."""
    asked, linked, undo = [], [], contextlib.ExitStack()
    callback = ModelCheckpoint(
        dirpath=tmp_path, filename="best", save_last="link", monitor="val", save_top_k=2
    )

    def exists(path):
        asked.append(Path(path).name)
        return None if Path(path).name == "last.ckpt" else "-v" not in str(path)

    def link(path, link):
        linked.append((path.name, link.name))

    with undo:
        undo.enter_context(seams.looking_ahead(callback, exists, link))
        fit(callback, enable_checkpointing=True, max_epochs=1)
    assert asked == ["best.ckpt", "best-v1.ckpt", "last.ckpt"]
    assert linked == [("best-v1.ckpt", "last.ckpt")]
    assert not {"file_exists", "_link_checkpoint"} & set(vars(callback))

    class Own(ModelCheckpoint):
        def file_exists(self, filepath, trainer):
            return super().file_exists(filepath, trainer)

    own = Own(dirpath=tmp_path)
    with seams.looking_ahead(own, exists, link):
        assert "file_exists" not in vars(own)


def test_keeps_account_of(tmp_path):
    """A path is public before it is saved; a subclass that saves in its own way may read it."""
    seen = []

    class Own(ModelCheckpoint):
        def _save_checkpoint(self, trainer, filepath):
            seen.append(("own", seams.keeps_account_of(self, Path(filepath))))
            super()._save_checkpoint(trainer, filepath)

    plain = ModelCheckpoint(dirpath=tmp_path / "plain", save_last=True, monitor="val", save_top_k=2)
    save = Trainer.save_checkpoint

    def saving(trainer, filepath, *args):
        if "plain" in str(filepath):
            seen.append(("plain", seams.keeps_account_of(plain, Path(filepath))))
        save(trainer, filepath, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", saving)
        fit(plain, Own(dirpath=tmp_path / "own"), enable_checkpointing=True)
    assert len(seen) == 2 * EPOCHS + EPOCHS
    assert set(seen) == {("plain", True), ("own", False)}
    assert not seams.keeps_account_of(plain, tmp_path / "another.ckpt")


@pytest.mark.parametrize("kind", [WandbLogger, MLFlowLogger])
def test_reads_checkpoints_at_once(kind, tmp_path):
    """Loggers that upload checkpoints keep the user's ``log_model`` under this name."""
    assert "self._log_model = log_model" in inspect.getsource(kind.__init__)
    logger = object.__new__(kind)
    for log_model, is_at_once in {"all": True, True: False, False: False}.items():
        logger._log_model = log_model
        assert seams.reads_checkpoints_at_once(logger) is is_at_once
    for harmless in (CSVLogger(tmp_path), TensorBoardLogger(tmp_path)):
        assert not seams.reads_checkpoints_at_once(harmless)
    body = inspect.getsource(TensorBoardLogger.after_save_checkpoint).rstrip()
    assert body.endswith('"""\n        pass'), "it does something now"
