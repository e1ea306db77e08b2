"""Saves a checkpoint on all ranks and commits it as soon as it is whole."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from getiaction_launch.errors import CheckError
from getiaction_launch.run.checkpoint import commit, partial_path, remove_partial
from getiaction_launch.run.run import Run
from getiaction_launch.worker.background_io import BackgroundCheckpointIO
from getiaction_launch.worker.progress import ProgressReport, say


class CheckpointSaver:
    """Saves the checkpoints of a run.

    A checkpoint in one file holds what all ranks gathered before rank 0 wrote it. It counts from
    then on, whether or not the other ranks are still alive. A directory, of a sharded strategy,
    counts once every rank has told that its part is written.

    With :class:`~getiaction_launch.worker.background_io.BackgroundCheckpointIO`, training continues
    as soon as the state is copied; otherwise once the checkpoint is committed.

    Args:
        run: Whose.
        progress: Where it says that a checkpoint is being saved, and how that went.
        attempt: Which start of the run this is.
        failure_limit_minutes: How long saving may fail before :meth:`raise_failure` raises.

    Attributes:
        is_saving: Whether this rank is, together with all others.
    """

    def __init__(
        self, run: Run, progress: ProgressReport, attempt: int, failure_limit_minutes: float
    ) -> None:
        self._run, self._progress, self._attempt = run, progress, attempt
        self._limit_seconds = failure_limit_minutes * 60
        self._failing_since: float | None = None
        self._failure = ""
        self._is_swept = False
        self.is_saving = False

    def raise_failure(self) -> None:
        """Give up once no checkpoint could be saved for ``failure_limit_minutes``.

        They are counted from the first one that failed.

        Raises:
            CheckError: With what the disk said.
        """
        if self._failing_since is None:
            return
        seconds = time.monotonic() - self._failing_since
        if seconds >= self._limit_seconds:
            directory = self._run.launch_directory / "checkpoints"
            raise CheckError(
                f"no checkpoint could be saved in {seconds / 60:.0f} minutes: {self._failure}",
                f"Make {directory} writable, with room in it, and go on from the last committed "
                f"checkpoint: getiaction-launch resume {self._run.directory}",
            )

    def save(self, trainer: Trainer, fit: int, reason: str) -> None:
        """Save and commit, on all ranks; what goes wrong is told and does not end the training.

        Args:
            trainer: Whose state.
            fit: As in :class:`~getiaction_launch.run.checkpoint.Checkpoint`.
            reason: As there. What an interruption saves counts when this returns.

        Raises:
            RuntimeError: Of a collective, if another rank has gone; what is committed by then
                counts.
        """
        step, epoch, saved_at = trainer.global_step, trainer.current_epoch, time.time()
        io = trainer.strategy.checkpoint_io
        background = io if isinstance(io, BackgroundCheckpointIO) else None
        is_committed = False

        def finish() -> None:
            nonlocal is_committed
            commit(
                self._run,
                attempt=self._attempt,
                fit=fit,
                step=step,
                epoch=epoch,
                reason=reason,
                saved_at=saved_at,
            )
            is_committed = True
            self._failing_since = None
            self._progress.update(checkpoint_step=step, checkpoint_error=None)

        if trainer.is_global_zero:
            self._progress.update(phase="saving", step=step)
            if not (background and self._is_swept):  # another may be being written
                with contextlib.suppress(OSError):  # the save itself will tell
                    remove_partial(self._run)
                self._is_swept = True
        path = partial_path(self._run, fit, step)
        is_awaited = background is None or reason == "interruption"
        try:
            if background:
                news = {} if is_awaited else {"phase": "training"}
                error = self._leave(trainer, background, path, finish, **news)
            else:
                error = self._write(trainer, path, finish)
                is_written = trainer.strategy.reduce_boolean_decision(error is None)
                if trainer.is_global_zero and not (error or is_committed):
                    error = self._finish_directory(finish, is_written=is_written)
            if error:
                self._tell_failure(trainer, step, error)
            if background and is_awaited:
                background.wait()
        finally:
            if trainer.is_global_zero and self._progress.phase == "saving":
                self._progress.update(phase="training")
        if is_awaited:
            trainer.strategy.barrier("getiaction_launch: committed")  # no rank leaves before that

    @staticmethod
    def _finish_directory(finish: Callable[[], None], *, is_written: bool) -> Exception | None:
        if not is_written:
            return RuntimeError("another rank could not write its part")
        try:
            finish()
        except OSError as refusal:
            return refusal
        return None

    def _tell_failure(self, trainer: Trainer, step: int, error: Exception) -> None:
        rank = "" if trainer.is_global_zero else f" by rank {trainer.global_rank}"
        words = f"{type(error).__name__}: {error}"
        say(f"step {step} could not be saved{rank}: {words}")
        if trainer.is_global_zero:
            self._failure = words
            self._failing_since = self._failing_since or time.monotonic()
            self._progress.update(checkpoint_error=words)

    def _leave(
        self,
        trainer: Trainer,
        io: BackgroundCheckpointIO,
        path: Path,
        finish: Callable[[], None],
        **news: str,
    ) -> Exception | None:
        """Copy the state of all ranks; rank 0 leaves it to its thread to write and to finish."""
        step = trainer.global_step

        def fail(error: Exception) -> None:
            self._tell_failure(trainer, step, error)

        def save_checkpoint(checkpoint: dict[str, Any], *_: object, **__: object) -> None:
            if trainer.is_global_zero:
                io.save_later(checkpoint, path, finish, fail, **news)

        return self._save(trainer, path, save_checkpoint)

    def _write(self, trainer: Trainer, path: Path, finish: Callable[[], None]) -> Exception | None:
        """Write on all ranks; rank 0 calls ``finish`` once a single file is whole."""
        strategy = trainer.strategy
        write, io = strategy.save_checkpoint, strategy.checkpoint_io

        def save_checkpoint(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in Strategy
            write(*args, **kwargs)
            if trainer.is_global_zero and path.is_file():
                finish()  # here, since Lightning goes on with a barrier, where lost ranks show

        if isinstance(io, AsyncCheckpointIO) and io.checkpoint_io:
            strategy.checkpoint_io = io.checkpoint_io  # what is committed must have been written
        try:
            return self._save(trainer, path, save_checkpoint)
        finally:
            strategy.checkpoint_io = io

    def _save(
        self, trainer: Trainer, path: Path, save_checkpoint: Callable[..., None]
    ) -> Exception | None:
        """Gather the state as Lightning does, and have it saved on all ranks."""
        strategy = trainer.strategy
        is_saved = False

        def save(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in Strategy
            nonlocal is_saved
            save_checkpoint(*args, **kwargs)
            is_saved = True

        before = strategy.save_checkpoint
        strategy.save_checkpoint = save  # type: ignore[method-assign]
        self.is_saving = True
        try:
            trainer.save_checkpoint(path)
        except Exception as error:
            if is_saved:  # that was the barrier
                raise
            strategy.barrier("Trainer.save_checkpoint")  # where the other ranks are waiting
            return error
        finally:
            self.is_saving = False
            strategy.save_checkpoint = before  # type: ignore[method-assign]
        return None
