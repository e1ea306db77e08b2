"""Every place where saving depends on Lightning's internals.

As in :mod:`getiaction_launch.worker.lightning_seams`, each function says why Lightning's public
interface is not enough, and has a test in ``tests/unit/test_saving_seams.py``.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem
from lightning.fabric.utilities import cloud_io
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.strategies import Strategy

from getiaction_launch.worker.lightning_seams import Replaced


@functools.cache
def spare_local_files_from_stores() -> None:
    """Have Lightning import no client of an object store because of a file on a local disk.

    Before it writes a file or looks for a directory, Lightning imports s3fs, gcsfs and adlfs, if
    they are installed, to ask whether the file system is one of theirs. There is no public way to
    answer that.
    """
    original = cloud_io._is_object_storage  # noqa: SLF001 - see the docstring

    @functools.wraps(original)
    def is_object_storage(fs: object) -> bool:
        return not isinstance(fs, LocalFileSystem) and original(fs)

    cloud_io._is_object_storage = is_object_storage  # noqa: SLF001


def writes_one_file(strategy: Strategy) -> bool:
    """Whether rank 0 alone writes the state, into one file.

    Strategies have no attribute for this. Sharded ones override ``save_checkpoint``.
    """
    return type(strategy).save_checkpoint is Strategy.save_checkpoint


@contextlib.contextmanager
def looking_ahead(
    callback: ModelCheckpoint,
    exists: Callable[[str | Path], bool | None],
    link: Callable[[Path, Path], None],
) -> Iterator[None]:
    """Make a ModelCheckpoint see files as they will be, while they are still being written.

    It chooses file names and makes its link by looking at the file system, and does not ask the
    ``CheckpointIO``. Methods that a subclass overrides are left unchanged.

    Args:
        callback: The user's ModelCheckpoint, whose methods are replaced on the instance.
        exists: Whether a file will exist, or None if only the callback's file system knows.
        link: Called with the path of a checkpoint and the path of the link to make.
    """

    def file_exists(filepath: str | Path, trainer: Trainer) -> bool:
        known = exists(filepath)
        is_there = callback._fs.exists(filepath) if known is None else known  # noqa: SLF001
        return trainer.strategy.reduce_boolean_decision(is_there, all=False)

    def link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
        link(Path(filepath), Path(linkpath))
        trainer.strategy.barrier()

    ahead: Any
    for name, ahead in (("file_exists", file_exists), ("_link_checkpoint", link_checkpoint)):
        if getattr(type(callback), name, None) is getattr(ModelCheckpoint, name):
            setattr(callback, name, Replaced(callback, name, ahead))
    try:
        yield
    finally:
        for name in ("file_exists", "_link_checkpoint"):
            vars(callback).pop(name, None)


def keeps_account_of(callback: ModelCheckpoint, path: Path) -> bool:
    """Whether a file is one that a plain ModelCheckpoint is about to save.

    It sets its public paths before it saves. A subclass that overrides the private method which
    saves may read the file immediately, so its files do not count.
    """
    is_plain = type(callback)._save_checkpoint is ModelCheckpoint._save_checkpoint  # noqa: SLF001
    paths = {callback.best_model_path, callback.last_model_path, *callback.best_k_models}
    return is_plain and str(path) in paths


def reads_checkpoints_at_once(logger: Logger) -> bool:
    """Whether a logger may read a checkpoint file in ``after_save_checkpoint``.

    Loggers have no public attribute for this. Lightning's loggers that upload checkpoints have the
    private ``_log_model``: with ``"all"`` they upload each file immediately, with a boolean not
    before training ends, or only what exists.
    """
    without_effect = (Logger.after_save_checkpoint, TensorBoardLogger.after_save_checkpoint)
    is_called = getattr(type(logger), "after_save_checkpoint", None) not in without_effect
    return is_called and not isinstance(getattr(logger, "_log_model", None), bool)
