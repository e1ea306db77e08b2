"""Inside a worker: on SIGTERM all ranks agree on a step, save one checkpoint there and stop.

SIGTERM means "please interrupt". The handler only sets a flag: Lightning's own handler runs a
collective, and two ranks that are at different points of a step would wait for each other forever.

Resumed training equals uninterrupted training bit for bit if the data loaders carry their state or
repeat their order (:mod:`getiaction_launch.worker.fitting.epoch`). Not restored, because Lightning
does not save it:

- the running means behind ``self.log(on_epoch=True)`` in training, so in an epoch that was
  interrupted these metrics cover only its later part;
- gradients that manual optimization accumulates over several batches, and the state of objects
  outside the checkpoint.
"""

import contextlib
import copy
import functools
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer

from getiaction_launch.mirror.kept import await_kept
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.checkpoint import Interrupted
from getiaction_launch.run.run import Run
from getiaction_launch.system.stop import on_sigterm
from getiaction_launch.worker.assignment import own_attempt, own_run
from getiaction_launch.worker.fitting.agreement import Agreement, Verdict, is_due
from getiaction_launch.worker.fitting.background import saving_in_background
from getiaction_launch.worker.fitting.epoch import Epoch
from getiaction_launch.worker.fitting.fits import UNSAVED, Fits
from getiaction_launch.worker.fitting.lightning_seams import (
    around_training,
    forget_restart,
    starts_processes,
    watching_steps,
)
from getiaction_launch.worker.fitting.ownership import OwnCallback, own_callbacks, without
from getiaction_launch.worker.fitting.random_state import set_random_state
from getiaction_launch.worker.heart import heart
from getiaction_launch.worker.lightning_seams import (
    LightningState,
    finish_restarting,
    fit_arguments,
    is_between_steps,
    keep_out_of_shared_lists,
    preparing_loaders,
    restore_outcome,
    watch_fits,
)
from getiaction_launch.worker.loaders import prepare_loader
from getiaction_launch.worker.loggers.histories import Histories, continue_histories
from getiaction_launch.worker.loggers.lightning_seams import continue_steps
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.saving.leftovers import Leftovers
from getiaction_launch.worker.saving.lightning_seams import spare_local_files_from_stores
from getiaction_launch.worker.saving.origin import allow_own_classes, weights_only_for
from getiaction_launch.worker.saving.rank_states import gather_rank_states, own_rank_state
from getiaction_launch.worker.saving.saver import CheckpointSaver
from getiaction_launch.worker.saving.sharding import check_strategy

AGREEMENT_SECONDS = 0.5
"""Target time between two agreements of the ranks."""
EPOCH_SHARE = 0.1
"""Share of the checkpoint period after which the end of an epoch triggers a save."""


def callbacks_of_worker() -> list[Callback]:
    """Return the callbacks of a Trainer in a worker, and have this process watch all its fits."""
    spare_local_files_from_stores()
    watch_fits(_watching)
    keep_out_of_shared_lists(*_KINDS)
    continue_histories(own_run())
    return list(_pair())


def _pair() -> "tuple[Interruption, ProgressReport]":
    run = own_run()
    progress = ProgressReport(run)
    return Interruption(run, progress, Plan.of(run)), progress


@contextlib.contextmanager
def _watching(trainer: Trainer, fit: int) -> Iterator[dict[str, object]]:
    """Run a fit inside the context of the Trainer's own :class:`Interruption`."""
    if starts_processes(trainer):
        with without(trainer, _KINDS):
            yield {}
        return
    with own_callbacks(trainer, _KINDS, _pair) as own:
        if fit == 0 or Interruption.fits is None:  # a process that has begun none
            Interruption.fits = Fits.of(own_run())
        with own.watching(trainer) as arguments:
            yield arguments


class Interruption(OwnCallback):
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
        plan: How often to save, and what to do if saving is slow or fails; and whether a program is
            run, which may call ``fit`` more than once.

    Attributes:
        is_requested: Whether SIGTERM arrived while a Trainer of this process was training.
        fits: The fits of the program that this process runs.
    """

    is_requested: ClassVar[bool] = False
    fits: ClassVar[Fits | None] = None

    def __init__(self, run: Run, progress: ProgressReport, plan: Plan) -> None:
        super().__init__(run)
        self._progress, self._plan, self._saving = progress, plan, plan.saving
        limit_minutes = plan.saving.failure_limit_minutes
        self._saver = CheckpointSaver(run, progress, own_attempt(), limit_minutes)
        self._undo = contextlib.ExitStack()
        self._trainer: weakref.ref[Trainer] | None = None

    def __deepcopy__(self, memo: dict[int, object]) -> "Interruption":
        """Save for a copy of the Trainer, too."""
        return Interruption(self._run, copy.deepcopy(self._progress, memo), self._plan)

    def claim(self, trainer: Trainer) -> bool:
        """Belong to a Trainer, and return whether this does not belong to another one."""
        if self._trainer is None:
            self._trainer = weakref.ref(trainer)
        return self._trainer() is trainer

    @contextlib.contextmanager
    def watching(self, trainer: Trainer) -> Iterator[dict[str, object]]:
        """Watch one ``Trainer.fit``.

        Args:
            trainer: The Trainer that this callback belongs to.

        Yields:
            The arguments of ``Trainer.fit`` that replace the user's, so that it resumes. A
            ``ckpt_path`` of the user's is already contained in the run's own checkpoint.
        """
        self._is_training = False
        self._resumed: LightningState = {}
        self._epoch_order = Epoch(trainer)
        arguments: dict[str, object] = {}
        self._fit = self.fits.begin(trainer, fit_arguments()) if self.fits else UNSAVED
        if path := self._fit.resume_from:
            arguments = {"ckpt_path": str(path), "weights_only": weights_only_for(path)}
        training = functools.partial(self._train, trainer)
        try:
            with _errors_after_sigterm(), around_training(trainer, training):
                yield arguments
        except Interrupted:
            # Lightning has restored the default. A second SIGTERM must not change the exit code.
            on_sigterm(signal.SIG_IGN)
            raise
        finally:
            self._undo.close()
        if self._fit.is_finished:
            self._restore_end(trainer)

    def _train(self, trainer: Trainer, train: Callable[[], None]) -> None:
        """Train and save the end, unless an earlier attempt has; everything is set up by now."""
        if self._fit.is_finished:
            if trainer.is_global_zero:
                say(f"fit {self._fit.number} was finished by an earlier attempt: not repeated.")
        else:
            train()
        if self._fit != UNSAVED:
            self._saver.keep_end(trainer, self._fit, is_program=bool(self._plan.script))
        await_kept(self._run.directory)  # code behind the fit may open them by their paths

    def _restore_end(self, trainer: Trainer) -> None:
        """Leave the Trainer as a fit does that has just trained."""
        forget_restart(trainer)
        metrics, should_stop = self._resumed["metrics"], self._resumed["should_stop"]
        restore_outcome(trainer, metrics, should_stop=should_stop)
        if state := self._resumed.get("random"):
            set_random_state(state)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save in the background, and prepare each loader before its first iterator is made."""
        if stage != "fit":
            return
        check_strategy(trainer)
        allow_own_classes(trainer, pl_module)
        saving = saving_in_background(trainer, self._progress, self._run)
        self._background = self._undo.enter_context(saving)
        self._before_fit = signal.getsignal(signal.SIGTERM)
        prepare = functools.partial(self._prepare_loader, trainer)
        self._undo.enter_context(preparing_loaders(trainer.strategy, prepare))

    def _prepare_loader(self, trainer: Trainer, loader: object) -> None:
        prepare_loader(loader, trainer)
        if trainer.training:
            self._epoch_order.prepare(loader)
            heart().prepare_fetch()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM end the process: before training there is nothing to save."""
        del trainer, pl_module
        on_sigterm(self._before_fit)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Treat SIGTERM as a request from here on, and restore what Lightning does not."""
        del pl_module
        self._epoch_order.begin()  # may read for long, and can be killed
        on_sigterm(_request)
        if trainer.received_sigterm:
            _request()
        if self._resumed:
            metrics, should_stop = self._resumed["metrics"], self._resumed["should_stop"]
            restore_outcome(trainer, metrics, should_stop=should_stop)
            if trainer.is_global_zero:
                self._progress.update(notice=self._epoch_order.note)
        self._batches = -1
        self._agreement, self._verdict = Agreement(AGREEMENT_SECONDS), Verdict.CONTINUE
        self._saved_at, self._epoch = time.monotonic(), trainer.current_epoch
        self._is_training = True
        before = functools.partial(self._before_batch, trainer)
        self._undo.enter_context(watching_steps(trainer, before, self._epoch_order.before_epoch))

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
        heart().begin_fetch()
        if state := self._resumed.pop("random", None):
            set_random_state(state)  # not earlier: the user's on_train_start may draw from it
        continue_steps(trainer, self._resumed)
        if not self._epoch_order.before_fetch():
            return
        self._batches += 1
        is_epoch_over, self._epoch = self._epoch < trainer.current_epoch, trainer.current_epoch
        if self._agreement.count_batch() or is_epoch_over:
            period_seconds = self._saving.period_minutes * 60
            wish = self._wish(trainer, period_seconds * (EPOCH_SHARE if is_epoch_over else 1))
            self._verdict = max(self._verdict, self._agreement.reach(trainer, wish))
        if not self._verdict or not is_between_steps(trainer):
            return
        verdict, self._verdict = self._verdict, Verdict.CONTINUE
        # Before its first batch, a fit has nothing that its own start does not have.
        if self._batches and not self._fit.is_rerun:
            reason = "interruption" if verdict is Verdict.STOP else "period"
            if verdict is Verdict.SAVE:
                self._saver.raise_failure()
            self._saver.save(trainer, self._fit, reason, self._epoch_order.restarts)
            self._saved_at = time.monotonic()
        if verdict is Verdict.STOP:
            if trainer.is_global_zero:
                self._progress.update(phase="interrupted")
            raise Interrupted

    def _wish(self, trainer: Trainer, period_seconds: float) -> Verdict:
        if Interruption.is_requested:
            return Verdict.STOP
        is_wanted = trainer.is_global_zero and is_due(trainer, self._saved_at, period_seconds)
        skips = self._saving.when_busy == "skip"
        is_free = not (skips and self._background and self._background.is_writing)
        return Verdict.SAVE if is_wanted and is_free else Verdict.CONTINUE

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Add what each rank needs to resume, if the launcher is saving."""
        del pl_module
        if self._saver.is_saving:  # the user's own saves may not run on all ranks
            gather_rank_states(trainer, checkpoint, self._epoch_order)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Take what this rank needs; Lightning restores its loops after this hook."""
        del pl_module
        if trainer.training:
            self._resumed = own_rank_state(trainer, checkpoint)
            if epoch := self._resumed.get("epoch"):
                self._epoch_order.resume(epoch, self._resumed.get("other_ranks"))


@contextlib.contextmanager
def _errors_after_sigterm() -> Iterator[None]:
    """Treat an error that follows SIGTERM as an interruption.

    It usually comes from a killed loader process, or a rank that has left; a genuine one returns.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if Interruption.is_requested:
            raise Interrupted from error
        raise


def _request(*_signal: object) -> None:
    Interruption.is_requested = True


_KINDS = (Interruption, ProgressReport, Histories, Leftovers)
