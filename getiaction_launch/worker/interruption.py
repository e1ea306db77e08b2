"""Inside a worker: on SIGTERM all ranks agree on a step, save one checkpoint there and stop.

SIGTERM means "please interrupt". The handler only sets a flag: Lightning's own handler runs a
collective, and two ranks that are at different points of a step would wait for each other forever.

Resumed training equals uninterrupted training bit for bit if the data loaders carry their state
(``state_dict`` and ``load_state_dict``). Some things are not restored, because Lightning does not
save them:

- the running means behind ``self.log(on_epoch=True)`` in training, so in an epoch that was
  interrupted these metrics cover only its later part;
- gradients that manual optimization accumulates over several batches;
- the state of objects outside the checkpoint.
"""

import contextlib
import enum
import functools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Plan, Saving
from getiaction_launch.run.checkpoint import Checkpoint, Interrupted
from getiaction_launch.run.run import Run
from getiaction_launch.system.stop import on_sigterm
from getiaction_launch.worker.checkpoints.origin import allow_own_classes
from getiaction_launch.worker.checkpoints.origin import weights_only_for as _can_load_weights_only
from getiaction_launch.worker.checkpoints.sharding import check_strategy
from getiaction_launch.worker.lightning_seams import (
    LightningState,
    finish_restarting,
    is_between_steps,
    preparing_loaders,
    restore_outcome,
    watch_fits,
    watching_fetches,
)
from getiaction_launch.worker.loaders import are_loaders_exact, prepare_loader
from getiaction_launch.worker.loggers.histories import Histories
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.random_state import set_random_state
from getiaction_launch.worker.saver import (
    CheckpointSaver,
    gather_rank_states,
    own_rank_state,
    saving_in_background,
)

WORKER_VARIABLE = "GETIACTION_LAUNCH_WORKER"
"""A worker sets it to its own process id. Its child processes inherit it, but not the id."""
EPOCH_SHARE = 0.1
"""Share of the checkpoint period after which the end of an epoch triggers a save."""
AGREEMENT_SECONDS = 0.5
"""Target time between two agreements of the ranks."""
AGREEMENT_BATCHES = 100
"""Most batches between two agreements, in case batches become slower in the meantime."""


class Verdict(enum.IntEnum):
    """What one rank wants, and what all ranks do: the highest value that any rank wants."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2


class Agreement:
    """Chooses how many batches lie between two agreements; each one costs an all-reduce.

    The number is computed from values that are the same on all ranks, so the ranks never disagree
    about when to agree.
    """

    def __init__(self) -> None:
        self._interval = self._countdown = 1
        self._reached_at = time.monotonic()

    def count_batch(self) -> bool:
        """Count one more batch, and return whether the ranks agree before it."""
        self._countdown -= 1
        return self._countdown == 0

    def reach(self, trainer: Trainer, wish: Verdict) -> Verdict:
        """Return the highest verdict that any rank wants, on all ranks."""
        batches = max(1, self._interval - self._countdown)
        seconds = time.monotonic() - self._reached_at
        values = torch.tensor([float(wish), seconds], device=trainer.strategy.root_device)
        verdict, seconds = trainer.strategy.reduce(values, reduce_op="max").tolist()
        fitting = int(batches * AGREEMENT_SECONDS / max(seconds, 1e-6))
        self._interval = self._countdown = max(
            1, min(fitting, 2 * self._interval, AGREEMENT_BATCHES)
        )
        self._reached_at = time.monotonic()
        return Verdict(int(verdict))


def callbacks() -> list[Callback]:
    """The callbacks that a launched worker adds to a Trainer; empty in any other process.

    Lightning calls this for every Trainer through the entry point group
    ``lightning.pytorch.callbacks_factory``, so the user's spec and script need no changes.
    """
    if os.environ.get(WORKER_VARIABLE) != str(os.getpid()):
        return []
    watch_fits(_watching)
    progress = ProgressReport(run := Run(Path(os.environ["GETIACTION_RUN_DIR"])))
    return [Interruption(run, progress, Plan.of(run).saving), progress, Histories(run)]


@contextlib.contextmanager
def _watching(trainer: Trainer, fit: int) -> Iterator[dict[str, object]]:
    """Run a fit inside the context of the Trainer's own :class:`Interruption`."""
    arguments: dict[str, object] = {}
    with contextlib.ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # set in another module
            if isinstance(callback, Interruption):
                arguments |= stack.enter_context(callback.watching(fit))
        yield arguments


class Interruption(Callback):
    """Saves committed checkpoints periodically, and once more before SIGTERM stops training.

    A checkpoint is due when the last one is ``period_minutes`` old. The end of an epoch is the best
    place to resume, since loaders without state are exact there and validation is not repeated. So
    at the end of an epoch a checkpoint is due after a tenth of the period. Shorter epochs are
    skipped, because the save would cost more than it protects.

    If the previous checkpoint is still being written, a save waits for it. With ``when_busy: skip``
    a periodic save is left out instead.

    Args:
        run: The run that this worker belongs to.
        progress: Reports that a checkpoint is being saved.
        saving: How often to save, and what to do if saving is slow or fails.

    Attributes:
        is_requested: Whether SIGTERM arrived while a Trainer of this process was training.
    """

    is_requested: ClassVar[bool] = False

    def __init__(self, run: Run, progress: ProgressReport, saving: Saving) -> None:
        self._run, self._progress, self._saving = run, progress, saving
        attempt = int(os.environ["GETIACTION_LAUNCH_ATTEMPT"])
        self._saver = CheckpointSaver(run, progress, attempt, saving.failure_limit_minutes)
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def watching(self, fit: int) -> Iterator[dict[str, object]]:
        """Watch one ``Trainer.fit``.

        Args:
            fit: Number of this fit in the process, from 0.

        Yields:
            The arguments of ``Trainer.fit`` that replace the user's, so that it resumes. A
            ``ckpt_path`` of the user's is already contained in the run's own checkpoint.

        Raises:
            CheckError: If the checkpoint to resume from is missing or incomplete.
        """
        path = os.environ.get("GETIACTION_LAUNCH_RESUME_FROM")
        checkpoint = Checkpoint.read(Path(path)) if path else None
        if path and not checkpoint:
            raise CheckError(
                f"the checkpoint {path!r} is missing or incomplete.",
                f"Resume from the previous one: getiaction-launch resume {self._run.directory}",
            )
        self._fit = fit
        # An earlier fit than the checkpoint's is run again, but must not replace its newer state.
        self._is_rerun = checkpoint is not None and fit < checkpoint.fit
        self._is_training = False
        self._resumed: LightningState = {}
        arguments: dict[str, object] = {}
        if checkpoint and checkpoint.fit == fit:
            arguments = {
                "ckpt_path": str(checkpoint.path),
                "weights_only": _can_load_weights_only(checkpoint.path),
            }
        try:
            with _errors_after_sigterm():
                yield arguments
        except Interrupted:
            # Lightning has restored the default. A second SIGTERM must not change the exit code.
            on_sigterm(signal.SIG_IGN)
            raise
        finally:
            self._undo.close()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save in the background, and prepare each loader before its first iterator is made."""
        if stage != "fit":
            return
        check_strategy(trainer)
        allow_own_classes(trainer, pl_module)
        saving = saving_in_background(trainer, self._progress, self._run)
        self._background = self._undo.enter_context(saving)
        self._before_fit = signal.getsignal(signal.SIGTERM)
        prepare = functools.partial(prepare_loader, trainer=trainer)
        self._undo.enter_context(preparing_loaders(trainer.strategy, prepare))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM end the process: before training there is nothing to save."""
        del trainer, pl_module
        on_sigterm(self._before_fit)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Treat SIGTERM as a request from here on, and restore what Lightning does not."""
        del pl_module
        on_sigterm(_request)
        if trainer.received_sigterm:
            _request()
        if self._resumed:
            metrics, should_stop = self._resumed["metrics"], self._resumed["should_stop"]
            restore_outcome(trainer, metrics, should_stop=should_stop)
            if trainer.is_global_zero and not are_loaders_exact(trainer):
                say(
                    "resuming in the middle of an epoch, but the data loader has no state_dict() "
                    "(or no length): this epoch will not see the same samples as an uninterrupted "
                    "run."
                )
        self._batches = -1
        self._agreement, self._verdict = Agreement(), Verdict.CONTINUE
        self._saved_at, self._epoch = time.monotonic(), trainer.current_epoch
        self._is_training = True
        before_fetch = functools.partial(self._before_batch, trainer)
        self._undo.enter_context(watching_fetches(trainer, before_fetch))

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - the user's
        batch_idx: int,
    ) -> None:
        """Finish resuming with the first batch."""
        del pl_module, batch, batch_idx
        if self._resumed:
            finish_restarting(trainer)
            self._resumed = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM end the process: after training there is nothing to save."""
        del trainer, pl_module
        self._is_training = False
        on_sigterm(self._before_fit)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fail if one of the user's checkpoints could not be written."""
        del trainer, pl_module
        if self._background:
            self._background.raise_failure()

    def _before_batch(self, trainer: Trainer) -> None:
        """Agree if it is time to, then save or stop if training can resume from here.

        Runs on every rank right before a batch is fetched. Every hook of the previous step and its
        validation are over: this is the only place from which Lightning resumes exactly.
        """
        if not self._is_training:
            return
        self._batches += 1
        if state := self._resumed.pop("random", None):
            # Not earlier, since the user's on_train_start may draw random numbers.
            set_random_state(state)
        is_epoch_over, self._epoch = self._epoch < trainer.current_epoch, trainer.current_epoch
        if self._agreement.count_batch() or is_epoch_over:
            period_seconds = self._saving.period_minutes * 60
            wish = self._wish(trainer, period_seconds * (EPOCH_SHARE if is_epoch_over else 1))
            self._verdict = max(self._verdict, self._agreement.reach(trainer, wish))
        if not self._verdict or not is_between_steps(trainer):
            return
        verdict, self._verdict = self._verdict, Verdict.CONTINUE
        # Before its first batch, a fit has nothing that its own start does not have.
        if self._batches and not self._is_rerun:
            reason = "interruption" if verdict is Verdict.STOP else "period"
            if verdict is Verdict.SAVE:
                self._saver.raise_failure()
            self._saver.save(trainer, self._fit, reason)
            self._saved_at = time.monotonic()
        if verdict is Verdict.STOP:
            if trainer.is_global_zero:
                self._progress.update(phase="interrupted")
            raise Interrupted

    def _wish(self, trainer: Trainer, period_seconds: float) -> Verdict:
        if Interruption.is_requested:
            return Verdict.STOP
        is_due = trainer.is_global_zero and time.monotonic() - self._saved_at >= period_seconds
        skips = self._saving.when_busy == "skip"
        is_free = not (skips and self._background and self._background.is_writing)
        return Verdict.SAVE if is_due and is_free else Verdict.CONTINUE

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Add what each rank needs to resume, if the launcher is saving."""
        del pl_module
        if self._saver.is_saving:  # the user's own saves may not run on all ranks
            gather_rank_states(trainer, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Take what this rank needs; Lightning restores its loops after this hook."""
        del pl_module
        if trainer.training:
            self._resumed = own_rank_state(trainer, checkpoint)


@contextlib.contextmanager
def _errors_after_sigterm() -> Iterator[None]:
    """Treat an error that follows SIGTERM as an interruption.

    It usually comes from a loader process that SIGTERM killed while it was starting, or from a rank
    that has already left. A genuine error of the user's code comes again in the next attempt.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if Interruption.is_requested:
            raise Interrupted from error
        raise


def _request(*_signal: object) -> None:
    Interruption.is_requested = True
