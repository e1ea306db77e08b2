"""How far a run is, told by its worker of rank 0 to whoever watches the run's directory."""

import contextlib
import os
import sys
import threading
import time
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run

PERIOD_SECONDS = 1.0


def say(words: str) -> None:
    """Tell whoever reads this worker's log."""
    sys.stderr.write(f"getiaction-launch: {words}\n")


class ProgressReport(Callback):
    """Writes ``launch/progress.json`` when training starts, once a second, and at its end."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._report = Progress()
        self._next_at = 0.0
        # From here on the spec has been parsed and its objects are built.
        if os.environ.get("RANK", "0") == "0":
            self.update(phase="starting")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell what lies ahead."""
        del pl_module
        # On every rank: Lightning may set up the loaders to count the batches.
        total = trainer.estimated_stepping_batches
        self._started_at, self._first_step = time.time(), trainer.global_step
        if trainer.is_global_zero:
            self.update(
                phase="training",
                first_step=self._first_step,
                step=self._first_step,
                total_steps=int(total) if total != float("inf") else None,
                max_epochs=trainer.max_epochs,
            )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's own type is a union of Any
        batch: Any,  # noqa: ANN401 - the user's
        batch_idx: int,
    ) -> None:
        """Tell the step, at most once in :data:`PERIOD_SECONDS`."""
        del pl_module, outputs, batch, batch_idx
        if trainer.is_global_zero and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + PERIOD_SECONDS
            self._tell(trainer, "training")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell the end, with the last value of every metric."""
        del pl_module
        metrics = trainer.callback_metrics  # on every rank: reading may reduce over ranks
        if trainer.is_global_zero:
            self._tell(trainer, "finished", metrics)

    def _tell(self, trainer: Trainer, phase: str, metrics: dict[str, Any] | None = None) -> None:
        steps = trainer.global_step - self._first_step
        values = trainer.callback_metrics if metrics is None else metrics
        self.update(
            phase=phase,
            epoch=trainer.current_epoch,
            step=trainer.global_step,
            seconds_per_step=(time.time() - self._started_at) / steps if steps else None,
            metrics={name: float(value) for name, value in values.items()},
            best={
                callback.monitor: float(callback.best_model_score)
                for callback in trainer.checkpoint_callbacks
                if isinstance(callback, ModelCheckpoint)
                and callback.monitor
                and callback.best_model_score is not None
            },
        )

    @property
    def phase(self) -> str | None:
        """What was told last."""
        return self._report.phase

    def update(self, **news: Any) -> None:  # noqa: ANN401 - JSON values
        """Tell ``news`` now, beside what was told before; for rank 0 alone, from any thread."""
        with self._lock:
            self._report = replace(self._report, **news, updated_at=time.time())
            # Training must not wait for a disk each second, nor end when that is full.
            with contextlib.suppress(OSError):
                self._report.write(self._run, durable=False)
