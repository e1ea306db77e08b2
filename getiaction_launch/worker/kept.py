"""Which checkpoints the user's own callbacks have kept, so that no run succeeds without weights."""

import os
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from getiaction_launch.run.run import Run


def named_checkpoints(trainer: Trainer, run: Run) -> dict[str, str]:
    """Return the best and the last checkpoint of the user's callbacks, where they have them.

    Args:
        trainer: The Trainer with the callbacks.
        run: The run; a path in its directory is relative to it.

    Returns:
        Paths or URLs by ``best`` and ``last``. Only files that exist, or are being written, count.
    """
    found: dict[str, str] = {}
    for callback in _callbacks(trainer):
        best, last = callback.best_model_path, callback.last_model_path
        if callback.monitor is None:  # Lightning takes the newest file for the best one
            best, last = "", last or best
        for name, path in {"best": best, "last": last}.items():
            if path and exists(trainer, path):
                found.setdefault(name, place(run, path))
    return found


def has_kept(trainer: Trainer, run: Run) -> bool:
    """Whether a callback of the user's has a checkpoint that belongs to the run.

    A file elsewhere does not count, unless on remote storage: a node's own disk may be cleaned when
    the job is over, and other runs may write the same path.

    Args:
        trainer: The Trainer with the callbacks.
        run: The run that the Trainer belongs to.
    """
    here = [path for path in paths_of(trainer) if not place(run, path).startswith("/")]
    return any(exists(trainer, path) for path in here)


def paths_of(trainer: Trainer) -> set[str]:
    """Return the paths or URLs of all checkpoints that the user's callbacks know of."""
    return {path for callback in _callbacks(trainer) for path in _paths(callback)}


def place(run: Run, path: str | Path) -> str:
    """Return a path relative to the run's directory if it is in there; URLs stay as they are."""
    if "://" in str(path):
        return str(path)
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - a link is not what it leads to
    if absolute.is_relative_to(run.directory):
        return str(absolute.relative_to(run.directory))
    return str(absolute)


def _callbacks(trainer: Trainer) -> Iterator[ModelCheckpoint]:
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint):
            yield callback


def _paths(callback: ModelCheckpoint) -> Iterator[str]:
    paths = (callback.best_model_path, callback.last_model_path, *callback.best_k_models)
    yield from filter(None, paths)


def exists(trainer: Trainer, path: str) -> bool:
    """Whether a checkpoint exists, or will as soon as everything has been written."""
    from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO

    io = trainer.strategy.checkpoint_io
    known = io.exists(path) if isinstance(io, BackgroundCheckpointIO) else None
    if known is not None:
        return known
    from fsspec.core import url_to_fs

    filesystem, name = url_to_fs(path)
    return bool(filesystem.exists(name))
