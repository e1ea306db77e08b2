"""Saves one checkpoint on all ranks and commits it once it is complete.

What happens to a checkpoint that is written in the background, in this order:

1. **Gather**: ``Trainer.save_checkpoint`` collects the state on all ranks, and each rank adds what
   only it knows (:mod:`~getiaction_launch.worker.saving.rank_states`).
2. **Copy**: rank 0 copies the state into memory (:mod:`~getiaction_launch.worker.saving.snapshot`).
   Training continues here, unless it is about to stop.
3. **Write**: the thread of :mod:`~getiaction_launch.worker.saving.background_io` writes
   ``fit_F_step_S.partial``. If the disk refuses, the write is retried after a pause.
4. **fsync**: the file is on the disk, not only in the page cache.
5. **Rename**: it becomes ``fit_F_step_S.ckpt``, and the directory is synced.
6. **Marker**: ``fit_F_step_S.json`` is written, also durably. From here on the checkpoint counts,
   whether or not the other ranks are still alive, and older checkpoints are removed.

Steps 5 and 6 are :func:`getiaction_launch.run.checkpoint.commit`. For a run on remote storage, the
node's mirror sees the marker and uploads the file first, then the marker.

A sharded strategy, or a ``CheckpointIO`` of the user's own, writes in its own way while training
waits. A directory, which holds parts of all ranks, is committed once every rank has written its
part.
"""

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from getiaction_launch.errors import CheckError
from getiaction_launch.run.beats.memory import Pause
from getiaction_launch.run.checkpoint import commit, partial_path, remove_partial
from getiaction_launch.run.finished import commit_finished, partial_of, path_of
from getiaction_launch.run.run import Run
from getiaction_launch.worker.fitting.batches import batches_done
from getiaction_launch.worker.fitting.fits import Fit
from getiaction_launch.worker.fitting.lightning_seams import save_quietly
from getiaction_launch.worker.heart import during
from getiaction_launch.worker.kept import has_kept, named_checkpoints, place
from getiaction_launch.worker.lightning_seams import LightningState
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO, SaveRequest
from getiaction_launch.worker.saving.removals import watch_removals


class CheckpointSaver:
    """Saves the launcher's own checkpoints; the module's docstring describes how.

    Args:
        run: The run that the checkpoints belong to.
        progress: Reports that a checkpoint is being saved, and how that went.
        attempt: Number of this attempt of the run, from 0.
        failure_limit_minutes: How long saving may fail before :meth:`raise_failure` raises.

    Attributes:
        is_saving: Whether this rank is saving right now, together with all others.
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
        watch_removals(run)

    def raise_failure(self) -> None:
        """Fail if no checkpoint could be saved for ``failure_limit_minutes``.

        The time is counted from the first save that failed.

        Raises:
            CheckError: If so; it quotes the error of the disk.
        """
        if self._failing_since is None:
            return
        seconds = time.monotonic() - self._failing_since
        if seconds >= self._limit_seconds:
            directory = self._run.launch_directory / "checkpoints"
            raise CheckError(
                f"no checkpoint could be saved in {seconds / 60:.0f} minutes: {self._failure}",
                f"Make {directory} writable, with enough free space, and resume from the last "
                f"committed checkpoint: getiaction-launch resume {self._run.directory}",
            )

    @during("saving", Pause.LONG)
    def save(self, trainer: Trainer, fit: Fit, reason: str, restarts: int = 0) -> None:
        """Save and commit on all ranks. A failure is logged and does not stop training.

        Args:
            trainer: The Trainer whose state is saved.
            fit: The call of ``Trainer.fit`` that trains at present.
            reason: ``period``, or ``interruption``: then the checkpoint is committed when this
                returns.
            restarts: How often the current epoch was begun anew.

        Raises:
            RuntimeError: If another rank is gone, from a collective. What has been committed by
                then counts.
        """
        background = _background_of(trainer)
        is_awaited = background is None or reason == "interruption"
        step = batches_done(trainer)
        about = {"fit": fit.number, "epoch": trainer.current_epoch, "reason": reason}
        about |= {"program": fit.program, "restarts": restarts}
        request = SaveRequest(
            finish=functools.partial(self._commit, step, saved_at=time.time(), **about),
            fail=functools.partial(self._report_failure, trainer, step),
            progress={} if is_awaited else {"phase": "training"},
        )
        if trainer.is_global_zero:
            self._progress.update(phase="saving", step=step)
            if not (background and self._is_swept):  # later, one may be being written
                with contextlib.suppress(OSError):  # the save itself will report it
                    remove_partial(self._run)
                self._is_swept = True
        path = partial_path(self._run, fit.number, step)
        try:
            self._save(trainer, path, request)
            if background and is_awaited:
                background.wait()
        finally:
            if trainer.is_global_zero and self._progress.phase == "saving":
                self._progress.update(phase="training")
        if is_awaited:
            trainer.strategy.barrier("getiaction_launch: committed")  # no rank may leave earlier

    @during("saving", Pause.LONG)
    def keep_end(self, trainer: Trainer, fit: Fit, *, is_program: bool) -> None:
        """Save the end state of a fit if no callback has kept a checkpoint; on all ranks.

        Args:
            trainer: The Trainer, which has trained or restored the end, and is not torn down yet.
            fit: The ``Trainer.fit`` that is over.
            is_program: Whether another fit may follow, so that the end state is needed to resume.

        Raises:
            CheckError: If the run would be left without weights.
        """
        if getattr(trainer, "fast_dev_run", False):
            return  # it is to leave nothing behind
        is_kept = bool(trainer.strategy.broadcast(has_kept(trainer, self._run)))
        is_needed = not fit.is_finished and (is_program or not is_kept)
        is_saved = self._save_end(trainer, fit, is_kept=is_kept) if is_needed else True
        if is_saved and not is_kept and trainer.is_global_zero:
            own = place(self._run, path_of(self._run, fit.number))
            say(f"no callback has kept a checkpoint in the run, so {own} is kept.")
            self._progress.keep(own)

    def _save_end(self, trainer: Trainer, fit: Fit, *, is_kept: bool) -> bool:
        """Save the end state, and return whether that went well.

        Raises:
            CheckError: If the disk has refused it and there are no other weights.
        """
        failures: list[Exception] = []
        about: Any = {"attempt": self._attempt, "program": fit.program, "is_kept": is_kept}
        about |= {"step": batches_done(trainer), "epoch": trainer.current_epoch}
        about |= {"saved_at": time.time()}
        request = SaveRequest(
            finish=functools.partial(commit_finished, self._run, fit.number, **about),
            fail=failures.append,
            is_hidden=True,
        )
        path = partial_of(self._run, fit.number)
        if trainer.is_global_zero:  # an end that does not fit this program any more
            with contextlib.suppress(OSError):  # the save itself will report it
                path_of(self._run, fit.number).with_suffix(".json").unlink(missing_ok=True)
        self._save(trainer, path, request)
        if background := _background_of(trainer):
            background.wait()
        trainer.strategy.barrier("getiaction_launch: end state")  # no rank may leave earlier
        for failure in failures[:1]:
            say(what := f"the end of fit {fit.number} could not be saved: {failure}")
            # A program that saves nothing may hold what cannot be pickled, and does not fail.
            has_weights = is_kept or named_checkpoints(trainer, self._run)
            if isinstance(failure, OSError) and not has_weights:
                raise CheckError(
                    f"{what}. No callback has kept a checkpoint either.",
                    f"Make {path.parent} writable, with enough free space, and resume from the "
                    f"last committed checkpoint: getiaction-launch resume {self._run.directory}",
                ) from failure
        return not failures

    def _commit(self, step: int, **about: Any) -> None:  # noqa: ANN401 - as in commit
        commit(self._run, attempt=self._attempt, step=step, **about)
        self._failing_since = None
        self._progress.update(checkpoint_step=step, checkpoint_error=None)

    def _report_failure(self, trainer: Trainer, step: int, error: Exception) -> None:
        rank = "" if trainer.is_global_zero else f" by rank {trainer.global_rank}"
        reason = f"{type(error).__name__}: {error}"
        say(f"step {step} could not be saved{rank}: {reason}")
        if trainer.is_global_zero:
            self._failure = reason
            self._failing_since = self._failing_since or time.monotonic()
            self._progress.update(checkpoint_error=reason)

    def _save(self, trainer: Trainer, path: Path, request: SaveRequest) -> None:
        """Save in the background, where that is possible; else it is written when this returns."""
        if _background_of(trainer):
            error = self._collect(trainer, path, request, storage_options=request)
        else:
            error = self._write(trainer, path, request)
        if error:
            request.fail(error)

    def _write(self, trainer: Trainer, path: Path, request: SaveRequest) -> Exception | None:
        """Let the strategy write, and commit what it has written."""
        strategy = trainer.strategy
        users = strategy.checkpoint_io
        # What is committed must have been written, so AsyncCheckpointIO's thread is bypassed.
        base = (users.checkpoint_io if isinstance(users, AsyncCheckpointIO) else None) or users
        with contextlib.suppress(TypeError):  # XLA's strategies accept only their own
            strategy.checkpoint_io = _CommittingIO(base, request)
        try:
            error = self._collect(trainer, path, request)
        finally:
            strategy.checkpoint_io = users
        is_written = strategy.reduce_boolean_decision(error is None)
        if error or request.is_finished or not trainer.is_global_zero:
            return error
        if not is_written:
            return RuntimeError("another rank could not write its part")
        try:
            request.finish()
        except OSError as refusal:
            return refusal
        return None

    def _collect(
        self, trainer: Trainer, path: Path, request: SaveRequest, storage_options: object = None
    ) -> Exception | None:
        """Let Lightning gather the state on all ranks and pass it to the strategy.

        Beware: Lightning ends with a barrier. If this rank fails before it, the others are waiting
        there, so this rank must join them. If the barrier itself fails, because a rank is gone,
        joining it again fails as well.
        """
        self.is_saving = True
        try:
            if request.is_hidden:
                save_quietly(trainer, path, storage_options)
            else:
                trainer.save_checkpoint(path, storage_options=storage_options)
        except Exception as error:
            if request.is_taken:  # it was the barrier
                raise
            trainer.strategy.barrier("Trainer.save_checkpoint")
            return error
        finally:
            self.is_saving = False
        return None


def _background_of(trainer: Trainer) -> BackgroundCheckpointIO | None:
    io = trainer.strategy.checkpoint_io
    return io if isinstance(io, BackgroundCheckpointIO) else None


class _CommittingIO(CheckpointIO):
    """Stands in for the user's ``CheckpointIO`` during one save, and commits a single file.

    It commits before Lightning's barrier, where a lost rank would raise.
    """

    def __init__(self, base: CheckpointIO, request: SaveRequest) -> None:
        self._base, self._request = base, request

    def save_checkpoint(
        self,
        checkpoint: LightningState,
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
