"""Inside a worker: all ranks agree on a step, save once, stop there, and go on from there exactly.

SIGTERM means "please interrupt". It only sets a flag: what Lightning does in its handlers is a
collective, and two ranks at different points of a step then wait for each other for ever.

Resumed training equals training that was never interrupted, bit for bit, where the loaders carry
their state (``state_dict`` and ``load_state_dict``). Not restored, because Lightning does not save
it: the running means behind ``self.log(on_epoch=True)`` in training, so that these metrics of the
epoch that was cut cover its later part only; gradients that a manual optimization gathers over
several batches; and what objects outside the checkpoint remember.
"""

import contextlib
import enum
import functools
import os
import signal
import threading
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
from getiaction_launch.worker.lightning_seams import (
    finish_restarting,
    is_between_steps,
    preparing_loaders,
    restore_outcome,
    watch_fits,
    watching_fetches,
)
from getiaction_launch.worker.loaders import are_loaders_exact, prepare_loader
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.random_state import set_random_state
from getiaction_launch.worker.saver import (
    CheckpointSaver,
    gather_rank_states,
    own_rank_state,
    saving_in_background,
)

WORKER_VARIABLE = "GETIACTION_LAUNCH_WORKER"
"""Set by a worker to its own process id; what it starts inherits it and is no worker."""
EPOCH_SHARE = 0.1
"""Of the period between two checkpoints; what must be over of it for one at an epoch's end."""
AGREEMENT_SECONDS = 0.5
"""About how often they do."""
AGREEMENT_BATCHES = 100
"""How many batches lie between two agreements at most, should they become slow meanwhile."""


class Verdict(enum.IntEnum):
    """What one rank wishes, and what all do; the higher one prevails."""

    GO_ON = 0
    SAVE = 1
    STOP = 2


class Agreement:
    """When the ranks agree again: not before every batch, as it costs a collective.

    The interval follows from what all ranks know alike, so that they never disagree on it.
    """

    def __init__(self) -> None:
        self._interval = self._countdown = 1
        self._reached_at = time.monotonic()

    def count_batch(self) -> bool:
        """Count another batch; whether to agree before it."""
        self._countdown -= 1
        return self._countdown == 0

    def reach(self, trainer: Trainer, wish: Verdict) -> Verdict:
        """Let every rank know the most that one of them wishes."""
        batches = max(1, self._interval - self._countdown)
        seconds = time.monotonic() - self._reached_at
        told = torch.tensor([float(wish), seconds], device=trainer.strategy.root_device)
        verdict, seconds = trainer.strategy.reduce(told, reduce_op="max").tolist()
        fitting = int(batches * AGREEMENT_SECONDS / max(seconds, 1e-6))
        self._interval = self._countdown = max(
            1, min(fitting, 2 * self._interval, AGREEMENT_BATCHES)
        )
        self._reached_at = time.monotonic()
        return Verdict(int(verdict))


def callbacks() -> list[Callback]:
    """The callbacks for a Trainer of a launched worker; none in any other process.

    Lightning adds them to every Trainer by itself, through the entry point group
    ``lightning.pytorch.callbacks_factory``, so the user's spec and script stay as they are.
    """
    if os.environ.get(WORKER_VARIABLE) != str(os.getpid()):
        return []
    watch_fits(_watching)
    run = Run(Path(os.environ["GETIACTION_RUN_DIR"]))
    progress = ProgressReport(run)
    return [Interruption(run, progress, Plan.of(run).saving), progress]


@contextlib.contextmanager
def _watching(trainer: Trainer, fit: int) -> Iterator[dict[str, Any]]:
    """Have a Trainer's own :class:`Interruption` watch its fit."""
    arguments: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined] # it is set from afar
            if isinstance(callback, Interruption):
                arguments |= stack.enter_context(callback.watching(fit))
        yield arguments


class Interruption(Callback):
    """Saves committed checkpoints, every so often and before it stops training on SIGTERM.

    A checkpoint is taken when the last is ``period_minutes`` old, and at an epoch's end
    when it is a tenth of that: between two epochs also a loader without a state goes on exactly,
    and no validation has to be done again. Epochs of seconds would each cost a copy of the state
    and a write, to save what a tenth of the period trains; so they do not.

    A save that finds the one before it still being written waits for that. With
    ``when_busy: skip`` a periodic one is put off until the other is done, so that slow storage
    makes checkpoints rarer and not the training slower.

    Args:
        run: Whose.
        progress: Where it says that a checkpoint is being saved.
        saving: How often checkpoints are saved, and what to do when that fails or takes long.

    Attributes:
        is_requested: Whether SIGTERM has come while one of this process's Trainers trained.
    """

    is_requested: ClassVar[bool] = False

    def __init__(self, run: Run, progress: ProgressReport, saving: Saving) -> None:
        self._run, self._progress, self._saving = run, progress, saving
        attempt = int(os.environ["GETIACTION_LAUNCH_ATTEMPT"])
        self._saver = CheckpointSaver(run, progress, attempt, saving.failure_limit_minutes)
        self._undo = contextlib.ExitStack()

    @contextlib.contextmanager
    def watching(self, fit: int) -> Iterator[dict[str, Any]]:
        """Watch one ``Trainer.fit``.

        Args:
            fit: Its number in this process.

        Yields:
            The arguments of ``Trainer.fit`` with which it resumes, instead of the user's: what
            a ``ckpt_path`` of theirs holds is in the run's own checkpoint already.

        Raises:
            CheckError: If the checkpoint to resume from is gone.
        """
        path = os.environ.get("GETIACTION_LAUNCH_RESUME_FROM")
        checkpoint = Checkpoint.read(Path(path)) if path else None
        if path and not checkpoint:
            raise CheckError(
                f"the checkpoint {path!r} is gone or not whole.",
                f"Resume from the one before it: getiaction-launch resume {self._run.directory}",
            )
        self._fit = fit
        # A fit before that of the checkpoint is done again, and there the newer state stays.
        self._is_rerun = checkpoint is not None and fit < checkpoint.fit
        self._is_training = False
        self._resumed: dict[str, Any] = {}
        arguments: dict[str, Any] = {}
        if checkpoint and checkpoint.fit == fit:
            arguments = {
                "ckpt_path": str(checkpoint.path),
                "weights_only": _can_load_weights_only(checkpoint.path),
            }
        try:
            with _errors_of_an_interruption():
                yield arguments
        except Interrupted:
            # Lightning has put the default back; a second SIGTERM must not change the exit code.
            _on_sigterm(signal.SIG_IGN)
            raise
        finally:
            self._undo.close()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prepare what saves, and every loader of the fit before its first iterator is made."""
        del pl_module
        if stage != "fit":
            return
        saving = saving_in_background(trainer, self._progress, self._run)
        self._background = self._undo.enter_context(saving)
        self._before_fit = signal.getsignal(signal.SIGTERM)
        prepare = functools.partial(prepare_loader, trainer=trainer)
        self._undo.enter_context(preparing_loaders(trainer.strategy, prepare))

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before training there is nothing to save: SIGTERM ends the process."""
        del trainer, pl_module
        _on_sigterm(self._before_fit)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on SIGTERM is a request."""
        del pl_module
        _on_sigterm(_request)
        if trainer.received_sigterm:
            _request()
        if self._resumed:
            metrics, should_stop = self._resumed["metrics"], self._resumed["should_stop"]
            restore_outcome(trainer, metrics, should_stop=should_stop)
            if trainer.is_global_zero and not are_loaders_exact(trainer):
                say(
                    "training goes on in an epoch whose data loader cannot: it has no "
                    "state_dict() or no length. Other samples are seen than without the "
                    "interruption."
                )
        self._batches = -1
        self._agreement, self._verdict = Agreement(), Verdict.GO_ON
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
        """Let Lightning forget that it resumes: it would skip this epoch's ReduceLROnPlateau."""
        del pl_module, batch, batch_idx
        if self._resumed:
            finish_restarting(trainer)
            self._resumed = {}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After training there is nothing to save."""
        del trainer, pl_module
        self._is_training = False
        _on_sigterm(self._before_fit)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let no checkpoint of the user's be missing without a word."""
        del trainer, pl_module
        if self._background:
            self._background.raise_failure()

    def _before_batch(self, trainer: Trainer) -> None:
        """Agree if it is time to, and do what was agreed on if training can go on from here.

        Called on every rank right before a batch is fetched. Every hook of the last step and its
        validation are over: the one place from which Lightning resumes exactly.
        """
        if not self._is_training:
            return
        self._batches += 1
        if state := self._resumed.pop("random", None):
            # Not before: the user's on_train_start may draw, and did so before it was saved.
            set_random_state(state)
        is_epoch_over, self._epoch = self._epoch < trainer.current_epoch, trainer.current_epoch
        if self._agreement.count_batch() or is_epoch_over:
            period_seconds = self._saving.period_minutes * 60
            wish = self._wish(trainer, period_seconds * (EPOCH_SHARE if is_epoch_over else 1))
            self._verdict = max(self._verdict, self._agreement.reach(trainer, wish))
        if not self._verdict or not is_between_steps(trainer):
            return
        verdict, self._verdict = self._verdict, Verdict.GO_ON
        if self._batches and not self._is_rerun:  # without a batch it is where this fit came from
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
        is_time = trainer.is_global_zero and time.monotonic() - self._saved_at >= period_seconds
        skips = self._saving.when_busy == "skip"
        is_free = not (skips and self._background and self._background.is_writing)
        return Verdict.SAVE if is_time and is_free else Verdict.GO_ON

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what every rank needs; Lightning saves rank 0's loaders and no random numbers."""
        del pl_module
        if self._saver.is_saving:  # other savers may not be on all ranks
            gather_rank_states(trainer, checkpoint)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take this rank's own part; Lightning restores its loops after that."""
        del pl_module
        if trainer.training:
            self._resumed = own_rank_state(trainer, checkpoint)


@contextlib.contextmanager
def _errors_of_an_interruption() -> Iterator[None]:
    """Count errors that come after SIGTERM as its echo.

    They are of loader processes that were only being started and died of it, or of ranks that
    have gone. An error of the code comes again in the next attempt.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if Interruption.is_requested:
            raise Interrupted from error
        raise


def _request(*_signal: object) -> None:
    Interruption.is_requested = True


def _on_sigterm(handler: Any) -> None:  # noqa: ANN401 - as in signal.signal
    # Python sets handlers in the main thread alone, Lightning's included.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _can_load_weights_only(path: Path) -> bool | None:
    """Whether ``weights_only=True`` loads the run's own checkpoint.

    Not where hyperparameters hold an object of a class of the user's own; refused that, torch
    could not resume the run.
    """
    try:
        return not torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (ValueError, OSError):  # a directory, or a format of the user's own
        return None
