"""Has a Trainer save in the background for the time of a fit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import Strategy

from getiaction_launch.run.run import Run
from getiaction_launch.worker.background_io import BackgroundCheckpointIO, is_url
from getiaction_launch.worker.progress import ProgressReport


@contextlib.contextmanager
def saving_in_background(
    trainer: Trainer, progress: ProgressReport, run: Run
) -> Iterator[BackgroundCheckpointIO | None]:
    """Have what a Trainer saves written in the background.

    This is done where rank 0 alone writes what all ranks have, into one file, by Lightning's
    default way. A sharded strategy and a ``CheckpointIO`` of the user's own stay in charge.

    Args:
        trainer: Whose strategy is set up.
        progress: As in :class:`BackgroundCheckpointIO`.
        run: See there.

    Yields:
        What saves; None where nothing was changed. All is written when the context ends.
    """
    strategy = trainer.strategy
    base = strategy.checkpoint_io
    is_one_file = type(strategy).save_checkpoint is Strategy.save_checkpoint
    if not is_one_file or type(base) is not TorchCheckpointIO:
        yield None
        return
    io = BackgroundCheckpointIO(
        base,
        progress,
        run,
        lambda path: _can_wait(trainer, path),
        Path(trainer.ckpt_path) if trainer.ckpt_path else None,
    )
    strategy.checkpoint_io = io
    with contextlib.ExitStack() as undo:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and trainer.is_global_zero:
                undo.enter_context(_looking_ahead(callback, io))
        try:
            yield io
        finally:
            io.close()
            strategy.checkpoint_io = base


@contextlib.contextmanager
def _looking_ahead(callback: ModelCheckpoint, io: BackgroundCheckpointIO) -> Iterator[None]:
    """Have a callback see the files as they will be, and make its link in its turn."""

    def file_exists(filepath: str | Path, trainer: Trainer) -> bool:
        is_there = callback._fs.exists(filepath) if is_url(filepath) else io.exists(filepath)  # noqa: SLF001 - as its own
        return trainer.strategy.reduce_boolean_decision(is_there, all=False)

    def link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
        io.link(Path(filepath), Path(linkpath))
        trainer.strategy.barrier()

    for name, ahead in {"file_exists": file_exists, "_link_checkpoint": link_checkpoint}.items():
        if getattr(type(callback), name) is getattr(ModelCheckpoint, name):  # not the user's own
            setattr(callback, name, ahead)
    try:
        yield
    finally:
        for name in ("file_exists", "_link_checkpoint"):
            vars(callback).pop(name, None)


def _can_wait(trainer: Trainer, path: Path) -> bool:
    """Whether a file is one that a plain ModelCheckpoint keeps account of, and no logger reads it.

    Any other is saved by code of the user's, or for it, which may read the file at once.
    """
    for logger in trainer.loggers:
        is_told = type(logger).after_save_checkpoint is not Logger.after_save_checkpoint
        # True: the ones that have it upload at the end, or what they find; "all": at once.
        if is_told and not isinstance(getattr(logger, "_log_model", None), bool):
            return False
    return any(
        type(callback)._save_checkpoint is ModelCheckpoint._save_checkpoint  # noqa: SLF001 - no public door
        and str(path)
        in {callback.best_model_path, callback.last_model_path, *callback.best_k_models}
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
    )
