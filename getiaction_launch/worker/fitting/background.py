"""Decides which checkpoints of a fit are written in the background."""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from getiaction_launch.mirror.kept import await_kept
from getiaction_launch.run.run import Run
from getiaction_launch.worker.progress import ProgressReport
from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO
from getiaction_launch.worker.saving.leftovers import Leftovers
from getiaction_launch.worker.saving.lightning_seams import (
    keeps_account_of,
    looking_ahead,
    reads_checkpoints_at_once,
    writes_one_file,
)


@contextlib.contextmanager
def saving_in_background(
    trainer: Trainer, progress: ProgressReport, run: Run
) -> Iterator[BackgroundCheckpointIO | None]:
    """Write in the background what a Trainer saves, the user's own checkpoints included.

    This applies where rank 0 alone writes the state into one file, in Lightning's default way.
    Sharded strategies and a ``CheckpointIO`` of the user's own are left unchanged.

    Args:
        trainer: The Trainer, with its strategy set up.
        progress: Reports whether a checkpoint is being written, and what failed.
        run: The run; leftovers of interrupted writes are removed in its directory only.

    Yields:
        What writes the checkpoints, or None if nothing was changed. When the context ends,
        everything has been written.
    """
    strategy = trainer.strategy
    base = strategy.checkpoint_io
    if not writes_one_file(strategy) or type(base) is not TorchCheckpointIO:
        await_kept(run.directory)  # nobody else would wait
        yield None
        return
    io = BackgroundCheckpointIO(
        base,
        progress,
        run,
        functools.partial(_can_wait, trainer),
        Path(trainer.ckpt_path) if trainer.ckpt_path else None,
    )
    strategy.checkpoint_io = io
    with contextlib.ExitStack() as undo:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and trainer.is_global_zero:
                will_exist = functools.partial(_will_exist, trainer, io)
                undo.enter_context(looking_ahead(callback, will_exist, io.link))
        try:
            yield io
        finally:
            io.close()
            strategy.checkpoint_io = base


def _will_exist(trainer: Trainer, io: BackgroundCheckpointIO, path: str | Path) -> bool | None:
    """Whether a ModelCheckpoint must choose another name than that of a file."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set elsewhere
    if any(callback.take(path) for callback in callbacks if isinstance(callback, Leftovers)):
        return False
    return io.exists(path)


def _can_wait(trainer: Trainer, path: Path) -> bool:
    """Whether a file may be written later: only a plain ModelCheckpoint knows of it.

    Any other file is saved by the user's code, or for it, which may read the file immediately.
    """
    if any(reads_checkpoints_at_once(logger) for logger in trainer.loggers):
        return False
    return any(
        isinstance(callback, ModelCheckpoint) and keeps_account_of(callback, path)
        for callback in trainer.checkpoint_callbacks
    )
