"""Saves a checkpoint on all ranks and commits it as soon as it is whole."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from getiaction_launch.checkpoint import commit, partial_path, remove_partial
from getiaction_launch.progress import ProgressReport, say
from getiaction_launch.run import Run


class CheckpointSaver:
    """Saves the checkpoints of a run.

    A checkpoint in one file holds what all ranks gathered before rank 0 wrote it. It counts from
    then on, whether or not the other ranks are still alive. A directory, of a sharded strategy,
    counts once every rank has told that its part is written.

    Args:
        run: Whose.
        progress: Where it says that a checkpoint is being saved, and how that went.
        attempt: Which start of the run this is.

    Attributes:
        is_saving: Whether this rank is, together with all others.
    """

    def __init__(self, run: Run, progress: ProgressReport, attempt: int) -> None:
        self._run, self._progress, self._attempt = run, progress, attempt
        self.is_saving = False

    def save(self, trainer: Trainer, fit: int, reason: str) -> None:
        """Save and commit, on all ranks; what goes wrong is told and does not end the training.

        Args:
            trainer: Whose state.
            fit: As in :class:`~getiaction_launch.checkpoint.Checkpoint`.
            reason: As there.

        Raises:
            RuntimeError: Of a collective, if another rank has gone; what is committed by then
                counts.
        """
        step = trainer.global_step
        is_committed = False

        def finish() -> None:
            nonlocal is_committed
            commit(
                self._run,
                attempt=self._attempt,
                fit=fit,
                step=step,
                epoch=trainer.current_epoch,
                reason=reason,
                saved_at=time.time(),
            )
            is_committed = True
            self._progress.update(phase="training", checkpoint_step=step, checkpoint_error=None)

        if trainer.is_global_zero:
            self._progress.update(phase="saving", step=step)
            with contextlib.suppress(OSError):  # the save itself will tell
                remove_partial(self._run)
        error = self._write(trainer, partial_path(self._run, fit, step), finish)
        is_written = trainer.strategy.reduce_boolean_decision(error is None)
        if trainer.is_global_zero and not error and not is_committed:
            try:
                if not is_written:
                    error = RuntimeError("another rank could not write its part")
                else:
                    finish()
            except OSError as refusal:
                error = refusal
        if error:
            rank = "" if trainer.is_global_zero else f" by rank {trainer.global_rank}"
            words = f"{type(error).__name__}: {error}"
            say(f"step {step} could not be saved{rank}: {words}")
            if trainer.is_global_zero:
                self._progress.update(phase="training", checkpoint_error=words)
        trainer.strategy.barrier("getiaction_launch: committed")  # no rank leaves before that

    def _write(self, trainer: Trainer, path: Path, finish: Callable[[], None]) -> Exception | None:
        """Write on all ranks; rank 0 calls ``finish`` once a single file is whole."""
        strategy = trainer.strategy
        write, io = strategy.save_checkpoint, strategy.checkpoint_io
        is_written = False

        def save_checkpoint(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in Strategy
            nonlocal is_written
            write(*args, **kwargs)
            if trainer.is_global_zero and path.is_file():
                finish()  # here, since Lightning goes on with a barrier, where lost ranks show
            is_written = True

        if isinstance(io, AsyncCheckpointIO) and io.checkpoint_io:
            strategy.checkpoint_io = io.checkpoint_io  # what is committed must have been written
        strategy.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
        self.is_saving = True
        try:
            trainer.save_checkpoint(path)
        except Exception as error:
            if is_written:  # that was the barrier
                raise
            strategy.barrier("Trainer.save_checkpoint")  # where the other ranks are waiting
            return error
        finally:
            self.is_saving = False
            strategy.save_checkpoint = write  # type: ignore[method-assign]
            strategy.checkpoint_io = io
        return None
