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
import functools
import inspect
import itertools
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
from getiaction_launch.worker.agreement import Agreement, Verdict
from getiaction_launch.worker.background_saving import saving_in_background
from getiaction_launch.worker.fetch_watch import FetchWatch
from getiaction_launch.worker.loaders import are_loaders_exact, prepare_loader
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.random_state import random_state, set_random_state
from getiaction_launch.worker.saver import CheckpointSaver

WORKER_VARIABLE = "GETIACTION_LAUNCH_WORKER"
"""Set by a worker to its own process id; what it starts inherits it and is no worker."""
EPOCH_SHARE = 0.1
"""Of the period between two checkpoints; what must be over of it for one at an epoch's end."""
_KEY = "getiaction_launch"


def callbacks() -> list[Callback]:
    """The callbacks for a Trainer of a launched worker; none in any other process.

    Lightning adds them to every Trainer by itself, through the entry point group
    ``lightning.pytorch.callbacks_factory``, so the user's spec and script stay as they are.
    """
    if os.environ.get(WORKER_VARIABLE) != str(os.getpid()):
        return []
    _watch_fits()
    run = Run(Path(os.environ["GETIACTION_RUN_DIR"]))
    progress = ProgressReport(run)
    return [Interruption(run, progress, Plan.of(run).saving), progress]


@functools.cache
def _watch_fits() -> None:
    """Have every ``Trainer.fit`` of this process watched, and the right one resumed."""
    original = Trainer.fit
    fits = itertools.count()

    @functools.wraps(original)
    def fit(self: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in Trainer.fit
        number = next(fits)
        words = inspect.signature(original).bind(self, *args, **kwargs)
        with contextlib.ExitStack() as stack:
            for callback in self.callbacks:  # type: ignore[attr-defined] # it is set from afar
                if isinstance(callback, Interruption):
                    words.arguments.update(stack.enter_context(callback.watching(number)))
            original(*words.args, **words.kwargs)

    Trainer.fit = fit  # type: ignore[method-assign]


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
        process = trainer.strategy.process_dataloader

        def process_dataloader(dataloader: object) -> object:
            loader = process(dataloader)
            prepare_loader(loader, trainer)
            return loader

        trainer.strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]
        self._undo.callback(delattr, trainer.strategy, "process_dataloader")

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
            trainer.should_stop = self._resumed["should_stop"]
            trainer.callback_metrics.update(self._resumed["metrics"])
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
        profiled: Any = trainer  # its profiler is set from afar
        self._undo.callback(setattr, trainer, "profiler", profiled.profiler)
        before_fetch = functools.partial(self._before_batch, trainer)
        profiled.profiler = FetchWatch(profiled.profiler, before_fetch)

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
            # Past its setter, which would also tell the inner loops.
            trainer.fit_loop._restarting = False  # noqa: SLF001 - no public door
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
        if not self._verdict or not _is_between_steps(trainer):
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
        if not self._saver.is_saving:  # other savers may not be on all ranks
            return
        metrics = trainer.callback_metrics  # what plateau schedulers and early stopping watch
        mine = {
            "random": random_state(trainer.strategy.root_device),
            "loaders": _loop_state(checkpoint).get("combined_loader", []),
            "metrics": {name: value.detach().cpu().clone() for name, value in metrics.items()},
            "should_stop": trainer.should_stop,
        }
        ranks: list[Any] = [mine]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, mine)
        checkpoint[_KEY] = {"ranks": ranks}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take this rank's own part; Lightning restores its loops after that."""
        del pl_module
        if _KEY not in checkpoint or not trainer.training:
            return
        ranks = checkpoint[_KEY]["ranks"]
        if len(ranks) == trainer.world_size:
            self._resumed = ranks[trainer.global_rank]
            _loop_state(checkpoint)["combined_loader"] = self._resumed["loaders"]
        else:
            self._resumed = {**ranks[0], "random": None}
            if trainer.is_global_zero:
                say(
                    f"the checkpoint is of {len(ranks)} ranks and training goes on with "
                    f"{trainer.world_size}: its numbers will not be the same."
                )


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


def _loop_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = checkpoint["loops"]["fit_loop"]["state_dict"]
    return state


def _is_between_steps(trainer: Trainer) -> bool:
    """Whether no gradients wait for further batches, and no batch is being trained on."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current
    is_idle = batches.ready == batches.completed
    return is_idle and batches.completed % trainer.accumulate_grad_batches == 0
