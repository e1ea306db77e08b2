"""Saves a checkpoint on all ranks and commits it as soon as it is whole."""

import contextlib
import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from getiaction_launch.errors import CheckError
from getiaction_launch.run.checkpoint import commit, partial_path, remove_partial
from getiaction_launch.run.run import Run
from getiaction_launch.worker.background_io import BackgroundCheckpointIO, SaveRequest
from getiaction_launch.worker.lightning_seams import (
    fit_loop_state,
    keeps_account_of,
    looking_ahead,
    reads_checkpoints_at_once,
    writes_one_file,
)
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.random_state import random_state

_KEY = "getiaction_launch"


def gather_rank_states(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Add what each rank needs, on all ranks; Lightning saves rank 0's loaders alone.

    Args:
        trainer: Whose state.
        checkpoint: What Lightning has gathered of it.
    """
    metrics = trainer.callback_metrics  # what plateau schedulers and early stopping watch
    own = {
        "random": random_state(trainer.strategy.root_device),
        "loaders": fit_loop_state(checkpoint).get("combined_loader", []),
        "metrics": {name: value.detach().cpu().clone() for name, value in metrics.items()},
        "should_stop": trainer.should_stop,
    }
    ranks: list[Any] = [own]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, own)
    checkpoint[_KEY] = {"ranks": ranks}


def own_rank_state(trainer: Trainer, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Take this rank's own part of a checkpoint, and put its loaders where Lightning looks.

    Returns:
        ``random``, ``metrics`` and ``should_stop``; nothing for a checkpoint of the user's own.
    """
    if _KEY not in checkpoint:
        return {}
    ranks: list[dict[str, Any]] = checkpoint[_KEY]["ranks"]
    if len(ranks) == trainer.world_size:
        own = ranks[trainer.global_rank]
        fit_loop_state(checkpoint)["combined_loader"] = own["loaders"]
        return own
    if trainer.is_global_zero:
        say(
            f"the checkpoint is of {len(ranks)} ranks and training goes on with "
            f"{trainer.world_size}: its numbers will not be the same."
        )
    return {**ranks[0], "random": None}


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
        io = trainer.strategy.checkpoint_io
        background = io if isinstance(io, BackgroundCheckpointIO) else None
        is_awaited = background is None or reason == "interruption"
        step = trainer.global_step
        about = {"fit": fit, "epoch": trainer.current_epoch, "reason": reason}
        request = SaveRequest(
            finish=functools.partial(self._commit, step, saved_at=time.time(), **about),
            fail=functools.partial(self._tell_failure, trainer, step),
            progress={} if is_awaited else {"phase": "training"},
        )
        if trainer.is_global_zero:
            self._progress.update(phase="saving", step=step)
            if not (background and self._is_swept):  # another may be being written
                with contextlib.suppress(OSError):  # the save itself will tell
                    remove_partial(self._run)
                self._is_swept = True
        path = partial_path(self._run, fit, step)
        try:
            if background:
                error = self._save(trainer, path, request, storage_options=request)
            else:
                error = self._write(trainer, path, request)
            if error:
                request.fail(error)
            if background and is_awaited:
                background.wait()
        finally:
            if trainer.is_global_zero and self._progress.phase == "saving":
                self._progress.update(phase="training")
        if is_awaited:
            trainer.strategy.barrier("getiaction_launch: committed")  # no rank leaves before that

    def _commit(self, step: int, **about: Any) -> None:  # noqa: ANN401 - as in commit
        commit(self._run, attempt=self._attempt, step=step, **about)
        self._failing_since = None
        self._progress.update(checkpoint_step=step, checkpoint_error=None)

    def _tell_failure(self, trainer: Trainer, step: int, error: Exception) -> None:
        rank = "" if trainer.is_global_zero else f" by rank {trainer.global_rank}"
        words = f"{type(error).__name__}: {error}"
        say(f"step {step} could not be saved{rank}: {words}")
        if trainer.is_global_zero:
            self._failure = words
            self._failing_since = self._failing_since or time.monotonic()
            self._progress.update(checkpoint_error=words)

    def _write(self, trainer: Trainer, path: Path, request: SaveRequest) -> Exception | None:
        """Write on all ranks; rank 0 commits a single file before Lightning's barrier."""
        strategy = trainer.strategy
        users = strategy.checkpoint_io
        # What is committed must have been written, so not in AsyncCheckpointIO's thread.
        base = (users.checkpoint_io if isinstance(users, AsyncCheckpointIO) else None) or users
        with contextlib.suppress(TypeError):  # XLA's strategies accept no other
            strategy.checkpoint_io = _CommittingIO(base, request)
        try:
            error = self._save(trainer, path, request)
        finally:
            strategy.checkpoint_io = users
        is_written = strategy.reduce_boolean_decision(error is None)
        if error or request.is_finished or not trainer.is_global_zero:
            return error
        # Directories, which have parts of all ranks, and what no CheckpointIO has written.
        if not is_written:
            return RuntimeError("another rank could not write its part")
        try:
            request.finish()
        except OSError as refusal:
            return refusal
        return None

    def _save(
        self, trainer: Trainer, path: Path, request: SaveRequest, storage_options: object = None
    ) -> Exception | None:
        """Have Lightning gather the state on all ranks, and hand it on.

        An error on one rank comes while the others wait at Lightning's barrier, or from that
        barrier, because another rank is gone; then joining it again raises as well.
        """
        self.is_saving = True
        try:
            trainer.save_checkpoint(path, storage_options=storage_options)
        except Exception as error:
            if request.is_taken:  # that was the barrier
                raise
            trainer.strategy.barrier("Trainer.save_checkpoint")
            return error
        finally:
            self.is_saving = False
        return None


class _CommittingIO(CheckpointIO):
    """The user's ``CheckpointIO`` for one save, which commits a single file as soon as it is there.

    Not after ``Trainer.save_checkpoint``: that ends with a barrier, where a lost rank shows.
    """

    def __init__(self, base: CheckpointIO, request: SaveRequest) -> None:
        self._base, self._request = base, request

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - as in CheckpointIO
    ) -> None:
        self._base.save_checkpoint(checkpoint, path, storage_options)
        if Path(path).is_file():
            self._request.finish()
            self._request.is_finished = True
        self._request.is_taken = True

    def load_checkpoint(self, path: str | Path, *args: Any, **words: Any) -> Any:  # noqa: ANN401 - as in CheckpointIO
        return self._base.load_checkpoint(path, *args, **words)

    def remove_checkpoint(self, path: str | Path) -> None:
        self._base.remove_checkpoint(path)


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
