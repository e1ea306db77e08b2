"""Has a Trainer save in the background for the time of a fit."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from getiaction_launch.run.run import Run
from getiaction_launch.worker.background_io import BackgroundCheckpointIO
from getiaction_launch.worker.lightning_seams import (
    keeps_account_of,
    looking_ahead,
    reads_checkpoints_at_once,
    writes_one_file,
)
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
    if not writes_one_file(strategy) or type(base) is not TorchCheckpointIO:
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
                undo.enter_context(looking_ahead(callback, io.exists, io.link))
        try:
            yield io
        finally:
            io.close()
            strategy.checkpoint_io = base


def _can_wait(trainer: Trainer, path: Path) -> bool:
    """Whether a file is one that a plain ModelCheckpoint keeps account of, and no logger reads it.

    Any other is saved by code of the user's, or for it, which may read the file at once.
    """
    if any(reads_checkpoints_at_once(logger) for logger in trainer.loggers):
        return False
    return any(
        isinstance(callback, ModelCheckpoint) and keeps_account_of(callback, path)
        for callback in trainer.checkpoint_callbacks
    )
