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
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.fabric.utilities.seed import pl_worker_init_function
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader

from getiaction_launch.checkpoint import (
    Checkpoint,
    Interrupted,
    commit,
    partial_path,
    remove_partial,
)
from getiaction_launch.errors import CheckError
from getiaction_launch.progress import ProgressReport
from getiaction_launch.run import Run
from getiaction_launch.shield import LoaderShield

WORKER_VARIABLE = "GETIACTION_LAUNCH_WORKER"
"""Set by a worker to its own process id; what it starts inherits it and is no worker."""
AGREEMENT_SECONDS = 0.5
"""About how often the ranks agree whether to go on."""
AGREEMENT_BATCHES = 100
"""How many batches lie between two agreements at most, should they become slow meanwhile."""

_GO_ON, _SAVE, _STOP = 0, 1, 2
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
    return [Interruption(run, progress), progress]


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

    Args:
        run: Whose.
        progress: Where it says that a checkpoint is being saved.

    Attributes:
        is_requested: Whether SIGTERM has come while one of this process's Trainers trained.
    """

    is_requested: ClassVar[bool] = False

    def __init__(self, run: Run, progress: ProgressReport) -> None:
        self._run, self._progress = run, progress
        self._attempt = int(os.environ["GETIACTION_LAUNCH_ATTEMPT"])
        self._period_seconds = float(
            os.environ.get("GETIACTION_LAUNCH_CHECKPOINT_PERIOD_SECONDS", "600")
        )
        self._undo = contextlib.ExitStack()
        self._is_saving = False

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
        """Prepare every loader of the fit before its first iterator is made."""
        del pl_module
        if stage != "fit":
            return
        self._before_fit = signal.getsignal(signal.SIGTERM)
        process = trainer.strategy.process_dataloader

        def process_dataloader(dataloader: object) -> object:
            loader = process(dataloader)
            _prepare(loader, trainer)
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
            if trainer.is_global_zero and not _are_loaders_exact(trainer):
                _say(
                    "training goes on in an epoch whose data loader cannot: it has no "
                    "state_dict() or no length. Other samples are seen than without the "
                    "interruption."
                )
        self._batches = -1
        self._verdict = _GO_ON
        self._interval = self._countdown = 1
        self._agreed_at = time.monotonic()
        self._save_at = self._agreed_at + self._period_seconds
        self._is_training = True
        profiled: Any = trainer  # its profiler is set from afar
        self._undo.callback(setattr, trainer, "profiler", profiled.profiler)
        before_fetch = functools.partial(self._before_batch, trainer)
        profiled.profiler = _FetchWatch(profiled.profiler, before_fetch)

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

    def _before_batch(self, trainer: Trainer) -> None:
        """Agree if it is time to, and do what was agreed on if training can go on from here.

        Called on every rank right before a batch is fetched. Every hook of the last step and its
        validation are over: the one place from which Lightning resumes exactly.
        """
        if not self._is_training:
            return
        self._batches += 1
        if random_state := self._resumed.pop("random", None):
            # Not before: the user's on_train_start may draw, and did so before it was saved.
            _set_random_state(random_state)
        self._countdown -= 1
        if self._countdown == 0:
            self._verdict = max(self._verdict, self._agree(trainer))
        if not self._verdict or not _is_between_steps(trainer):
            return
        verdict, self._verdict = self._verdict, _GO_ON
        if self._batches and not self._is_rerun:  # without a batch it is where this fit came from
            self._save(trainer, "interruption" if verdict == _STOP else "period")
        if verdict == _STOP:
            if trainer.is_global_zero:
                self._progress.update(phase="interrupted")
            raise Interrupted

    def _agree(self, trainer: Trainer) -> int:
        """Let every rank know the most that one of them asks for."""
        now = time.monotonic()
        wish = _GO_ON
        if Interruption.is_requested:
            wish = _STOP
        elif trainer.is_global_zero and now >= self._save_at:
            wish = _SAVE
        told = torch.tensor([wish, now - self._agreed_at], device=trainer.strategy.root_device)
        verdict, seconds = trainer.strategy.reduce(told, reduce_op="max").tolist()
        # From what all ranks know alike, so that they never disagree on when to agree again.
        fitting = int(self._interval * AGREEMENT_SECONDS / max(seconds, 1e-6))
        self._interval = self._countdown = max(
            1, min(fitting, 2 * self._interval, AGREEMENT_BATCHES)
        )
        self._agreed_at = time.monotonic()
        return int(verdict)

    def _save(self, trainer: Trainer, reason: str) -> None:
        """Save and commit, on all ranks; what goes wrong is told and does not end the training."""
        step = trainer.global_step
        if trainer.is_global_zero:
            self._progress.update(phase="saving", step=step)
            with contextlib.suppress(OSError):  # the save itself will tell
                remove_partial(self._run)
        error = self._write(trainer, partial_path(self._run, self._fit, step))
        is_written = trainer.strategy.reduce_boolean_decision(error is None)
        if trainer.is_global_zero and not is_written:
            error = error or RuntimeError("another rank could not write its part")
        elif trainer.is_global_zero:
            try:
                commit(
                    self._run,
                    attempt=self._attempt,
                    fit=self._fit,
                    step=step,
                    epoch=trainer.current_epoch,
                    reason=reason,
                    saved_at=time.time(),
                )
            except OSError as refusal:
                error = refusal
        words = f"{type(error).__name__}: {error}" if error else None
        if words:
            _say(f"step {step} could not be saved: {words}")
        if trainer.is_global_zero:
            saved = {} if words else {"checkpoint_step": step}
            self._progress.update(phase="training", checkpoint_error=words, **saved)
        self._save_at = time.monotonic() + self._period_seconds
        trainer.strategy.barrier("getiaction_launch: committed")  # no rank leaves before that

    def _write(self, trainer: Trainer, path: Path) -> Exception | None:
        strategy = trainer.strategy
        io = strategy.checkpoint_io
        if isinstance(io, AsyncCheckpointIO) and io.checkpoint_io:
            strategy.checkpoint_io = io.checkpoint_io  # what is committed must have been written
        self._is_saving = True
        try:
            trainer.save_checkpoint(path)
        except Exception as error:  # noqa: BLE001 - the user's hooks are in it
            strategy.barrier("Trainer.save_checkpoint")  # where the other ranks are waiting
            return error
        finally:
            self._is_saving = False
            strategy.checkpoint_io = io
        return None

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what every rank needs; Lightning saves rank 0's loaders and no random numbers."""
        del pl_module
        if not self._is_saving:  # other savers may not be on all ranks
            return
        metrics = trainer.callback_metrics  # what plateau schedulers and early stopping watch
        mine = {
            "random": _random_state(trainer.strategy.root_device),
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
                _say(
                    f"the checkpoint is of {len(ranks)} ranks and training goes on with "
                    f"{trainer.world_size}: its numbers will not be the same."
                )


class _FetchWatch:
    """A Profiler that is also told of every batch, right before it is fetched."""

    def __init__(self, profiler: Profiler, before_fetch: Callable[[], None]) -> None:
        self._profiler, self._before_fetch = profiler, before_fetch

    def start(self, action_name: str) -> None:
        """As a Profiler's."""
        if action_name == "[_TrainingEpochLoop].train_dataloader_next":
            self._before_fetch()
        self._profiler.start(action_name)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the profiler has
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._profiler, name)


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


def _say(words: str) -> None:
    sys.stderr.write(f"getiaction-launch: {words}\n")


def _can_load_weights_only(path: Path) -> bool | None:
    """Whether ``weights_only=True`` loads the run's own checkpoint.

    Not where hyperparameters hold an object of a class of the user's own; refused that, torch
    could not resume the run.
    """
    try:
        return not torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (ValueError, OSError):  # a directory, or a format of the user's own
        return None


def _prepare(loader: object, trainer: Trainer) -> None:
    if not isinstance(loader, DataLoader):
        return
    init = loader.worker_init_fn
    if loader.num_workers and not isinstance(init, LoaderShield):
        if init is None and int(os.environ.get("PL_SEED_WORKERS", "0")):
            # Lightning adds it after this, and only where there is none.
            init = functools.partial(pl_worker_init_function, rank=trainer.global_rank)
        loader.worker_init_fn = LoaderShield(init)
    # Lightning does it after the first iterator is made, whose workers may read ahead by then.
    if set_epoch := getattr(loader.sampler, "set_epoch", None):
        set_epoch(trainer.current_epoch)


def _loop_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = checkpoint["loops"]["fit_loop"]["state_dict"]
    return state


def _are_loaders_exact(trainer: Trainer) -> bool:
    """Whether the loaders go on where they were; one without a length is read a batch ahead."""
    loaders = CombinedLoader(trainer.train_dataloader).flattened
    has_length = trainer.num_training_batches != float("inf")
    return has_length and all(hasattr(loader, "load_state_dict") for loader in loaders)


def _is_between_steps(trainer: Trainer) -> bool:
    """Whether no gradients wait for further batches, and no batch is being trained on."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current
    is_idle = batches.ready == batches.completed
    return is_idle and batches.completed % trainer.accumulate_grad_batches == 0


def _random_state(device: torch.device) -> dict[str, Any]:
    """The global generators of this process, as data that loads with ``weights_only=True``."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - users draw from it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (kind, torch.tensor(np.asarray(keys, np.int64)), *rest),
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    kind, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    random.setstate(state["python"])
