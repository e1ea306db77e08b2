"""Reports how far training is: rank 0 writes ``launch/progress.json`` for everybody who watches.

What each rank does at the moment is noted for its node (:mod:`getiaction_launch.worker.beats`).
"""

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from getiaction_launch.run.metric import LOSS, warnings
from getiaction_launch.run.records import STARTING, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.worker.beats import Beats
from getiaction_launch.worker.fitting.batches import batches_done, total_batches
from getiaction_launch.worker.fitting.judgement import LossWatch, modes, monitored
from getiaction_launch.worker.kept import named_checkpoints
from getiaction_launch.worker.lightning_seams import LightningState
from getiaction_launch.worker.store import leave_store, open_store

STATE_KEY = "getiaction_launch"
"""Key of a checkpoint under which the launcher keeps what Lightning does not."""
PERIOD_SECONDS = 1.0
"""Shortest time between two reports during training."""
# What a process has reported outlives its Trainers: one that is made later knows no metrics.
reports: dict[Path, Progress] = {}
_lock = threading.Lock()


def say(message: str) -> None:
    """Write a line of the launcher's into this worker's log."""
    sys.stderr.write(f"getiaction-launch: {message}\n")


class ProgressReport(Beats):
    """Writes ``launch/progress.json`` when training starts, once a second, and when it ends.

    Args:
        run: The run that this worker belongs to.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._started_at, self._first_step = time.time(), 0  # a fit may have nothing to train
        self._next_at = 0.0
        self._losses = LossWatch()
        self._not_finite: dict[str, int] = {}
        self._earlier: dict[str, str] = {}
        self._own: dict[str, str] = {}
        # The spec has been parsed by now, and its objects are being built.
        if os.environ.get("RANK", "0") == "0" and run.directory not in reports:
            open_store()  # a program's; that of a spec is open since its first imports
            self.update(phase=STARTING)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note that a fit begins; all ranks have met by now."""
        super().setup(trainer, pl_module, stage)
        leave_store()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember which checkpoints earlier fits of the program have kept."""
        del trainer, pl_module
        self._earlier, self._own = self._report.checkpoints, {}

    def keep(self, own: str) -> None:
        """Report the end state of this fit, which the launcher keeps as the only checkpoint.

        Args:
            own: Its path, relative to the run's directory.
        """
        self._own = {"own": own}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report how many steps and epochs there are."""
        super().on_train_start(trainer, pl_module)
        self._losses = LossWatch()
        self._started_at, self._first_step = time.time(), batches_done(trainer)
        if trainer.is_global_zero:
            self.update(
                phase="training",
                first_step=self._first_step,
                step=self._first_step,
                total_steps=total_batches(trainer),
                max_epochs=None if trainer.max_epochs is None else int(trainer.max_epochs),
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what the epoch before repeated; a resumed epoch does not start."""
        del pl_module
        if trainer.is_global_zero and self._report.notice:
            self.update(notice=None)

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Note whether the loss is finite."""
        super().on_before_backward(trainer, pl_module, loss)
        del pl_module
        self._losses.see(loss, batches_done(trainer))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type is a union of Any
        batch: Any,  # noqa: ANN401 - the user's
        batch_idx: int,
    ) -> None:
        """Report the step, at most once in :data:`PERIOD_SECONDS`."""
        del pl_module, outputs, batch, batch_idx
        self._losses.end_batch()
        super().on_train_batch_end()
        if trainer.is_global_zero and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + PERIOD_SECONDS
            self._report_step(trainer, "training")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the end, with the last value of every metric."""
        del pl_module
        metrics = trainer.callback_metrics  # on every rank, because reading may reduce over ranks
        if trainer.is_global_zero:
            self._report_step(trainer, "finished", metrics)
            for warning in warnings(self._report):
                say(warning)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Keep in the launcher's checkpoints since when the loss has not been finite."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        del trainer, pl_module
        if STATE_KEY in checkpoint:
            checkpoint[STATE_KEY]["not_finite"] = self._not_finite | self._loss_since()

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Take over since when the loss has not been finite."""
        del trainer, pl_module
        self._not_finite = dict(checkpoint.get(STATE_KEY, {}).get("not_finite", {}))

    def _report_step(
        self, trainer: Trainer, phase: str, values: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        steps = batches_done(trainer) - self._first_step
        values = trainer.callback_metrics if values is None else values
        metrics = {name: float(value) for name, value in values.items()}
        self.update(
            phase=phase,
            epoch=trainer.current_epoch,
            step=batches_done(trainer),
            seconds_per_step=(time.time() - self._started_at) / steps if steps else None,
            metrics=metrics,
            monitored=monitored(trainer),
            modes=modes(trainer),
            not_finite=self._since_when(batches_done(trainer), metrics),
            checkpoints=self._earlier | named_checkpoints(trainer, self._run) | self._own,
            best={
                callback.monitor: float(callback.best_model_score)
                for callback in trainer.checkpoint_callbacks
                if isinstance(callback, ModelCheckpoint)
                and callback.monitor
                and callback.best_model_score is not None
            },
        )

    def _since_when(self, step: int, metrics: Mapping[str, float]) -> dict[str, int]:
        """Return since which step the loss and each metric have not been finite."""
        earlier = self._not_finite
        names = [name for name, value in metrics.items() if not math.isfinite(value)]
        self._not_finite = {name: earlier.get(name, step) for name in names} | self._loss_since()
        return self._not_finite

    def _loss_since(self) -> dict[str, int]:
        begun = self._losses.since()
        if begun is None:
            return {}
        # If it was so in the first step after resuming, it has been so for longer.
        is_resumed = begun <= self._first_step + 1
        return {LOSS: self._not_finite.get(LOSS, begun) if is_resumed else begun}

    @property
    def _report(self) -> Progress:
        return reports.get(self._run.directory) or Progress()

    @property
    def phase(self) -> str | None:
        """The phase that was reported last."""
        return self._report.phase

    def update(self, **changes: Any) -> None:  # noqa: ANN401 - JSON values
        """Report ``changes`` now, and all other values unchanged.

        Only rank 0 may call this, from any thread.

        Args:
            changes: New values for fields of :class:`~getiaction_launch.run.records.Progress`.
        """
        with _lock:
            report = self._report.updated(**changes, updated_at=time.time())
            reports[self._run.directory] = report
            # Training must not wait for the disk every second, nor end because it is full.
            with contextlib.suppress(OSError):
                report.write(self._run, durable=False)
