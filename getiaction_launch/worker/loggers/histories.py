"""Keeps one history of each logger of the program, over all attempts of a run.

A program that is started again makes its loggers again, and they start over: a CSVLogger deletes
its file, loggers without a version take the next free one, TensorBoard draws steps twice, and
trackers begin another run. Here each of them continues where the resumed checkpoint was saved:

- the rows of ``metrics.csv`` that had been logged by then stay, and later ones are removed;
- TensorBoard drops later steps, as after ``SummaryWriter(purge_step=...)``;
- versions, and the run ids of MLflow, are those of the first attempt;
- the node has set variables by which W&B, Comet and Neptune continue one run
  (:func:`~getiaction_launch.run.loggers.tracking_variables`). Trackers cannot take values back, so
  steps that are trained again after a crash are logged there twice.
"""

import functools
import os
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from fsspec import AbstractFileSystem
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from getiaction_launch.run.loggers import GIVEN_VARIABLE, LoggersRecord, read_loggers
from getiaction_launch.run.run import Run
from getiaction_launch.worker.assignment import own_attempt
from getiaction_launch.worker.fitting.ownership import OwnCallback
from getiaction_launch.worker.kept import place
from getiaction_launch.worker.lightning_seams import LightningState
from getiaction_launch.worker.loggers import lightning_seams as seams
from getiaction_launch.worker.loggers import tables
from getiaction_launch.worker.progress import STATE_KEY, say

T = TypeVar("T")

_WANDB = "WANDB_RUN_ID"
_NUM_SCALARS = 16
"""How many entries of a curve may have been logged at the step that training resumes with."""


class _Process:
    """What the loggers of this process share; a program may have several Trainers."""

    def __init__(self) -> None:
        self.begin(Run(Path()), LoggersRecord())

    def begin(self, run: Run, earlier: LoggersRecord) -> None:
        """Forget all loggers.

        Args:
            run: The run that this worker belongs to.
            earlier: What earlier attempts have recorded.
        """
        self.run, self.earlier, self.record = run, earlier, earlier
        self.chosen: Counter[str] = Counter()
        self.recorded: dict[str, list[Logger]] = {}
        self.fits: Counter[str] = Counter()
        self.wandb_runs = 0
        self.scalars: dict[str, deque[tuple[int, dict[str, float]]]] = {}

    def key(self, logger: seams.Versioned) -> str:
        """Return what two loggers have in common that would get the same next version."""
        return f"{type(logger).__name__} {place(self.run, logger.root_dir)} {logger.name}"

    def version(self, logger: seams.Versioned) -> int | None:
        """Return the version that this logger had in an earlier attempt."""
        return self._next(self.earlier.versions, self.key(logger))

    def run_id(self, experiment: str) -> str | None:
        """Return the id of the run of MLflow that an earlier attempt has created."""
        return self._next(self.earlier.run_ids, f"MLFlowLogger {experiment}")

    def _next(self, known: dict[str, list[T]], key: str) -> "T | None":
        values, number = known.get(key, []), self.chosen[key]
        self.chosen[key] += 1
        return values[number] if number < len(values) else None

    def adopt(self, path: str, filesystem: AbstractFileSystem) -> list[str] | None:
        """Return the columns of a file of this run's that shall be continued; None for others."""
        directory = os.path.dirname(path)  # noqa: PTH120 - may be a URL
        is_ours = place(self.run, directory) in self.earlier.rows
        lines = tables.read(path, filesystem) if is_ours else []
        if not lines:
            return None
        tables.replace(path, filesystem, lines)  # without a row that has no end
        return lines[0]

    def wandb_id(self) -> str | None:
        """Return the id of the next run of W&B; None for the first, which the variable names."""
        if _WANDB not in os.environ.get(GIVEN_VARIABLE, "").split():
            return None
        number, self.wandb_runs = self.wandb_runs, self.wandb_runs + 1
        return f"{os.environ[_WANDB]}-{number}" if number else None

    def note(self, logger: Logger) -> None:
        """Record where a logger writes, once for each logger."""
        if isinstance(logger, CSVLogger | TensorBoardLogger) and isinstance(logger.version, int):
            key, value = self.key(logger), logger.version
            versions = self._noted(self.record.versions, key, logger, value)
            self.record = replace(self.record, versions=versions)
        elif isinstance(logger, WandbLogger) and logger.version == os.environ.get(_WANDB):
            self.wandb_runs = max(self.wandb_runs, 1)  # it was opened before the first Trainer
        elif isinstance(logger, MLFlowLogger):
            key = f"MLFlowLogger {seams.experiment_of(logger)}"
            run_ids = self._noted(self.record.run_ids, key, logger, logger.run_id)
            self.record = replace(self.record, run_ids=run_ids)

    def begin_fit(self, logger: Logger, place: str) -> int:
        """Return how many fits of this process have logged into a place before."""
        key = f"{type(logger).__name__} {place}"
        self.fits[key] += 1
        return self.fits[key] - 1

    def watch(self, logger: TensorBoardLogger, metrics: Mapping[str, Any], step: int) -> None:
        """Remember what was logged last."""
        latest = self.scalars.setdefault(
            place(self.run, logger.log_dir), deque(maxlen=_NUM_SCALARS)
        )
        kinds = (int, float, torch.Tensor)
        values = {name: value for name, value in metrics.items() if isinstance(value, kinds)}
        latest.append((step, {name: float(value) for name, value in values.items()}))

    def scalars_from(self, step: int) -> dict[str, list[tuple[int, dict[str, float]]]]:
        """Return what has been logged to TensorBoard from a step on, by the logger's place."""
        return {
            place: [entry for entry in latest if entry[0] >= step]
            for place, latest in self.scalars.items()
        }

    def note_rows(self, place: str, fit: int, num_rows: int) -> int:
        """Record how many rows a file has when one of its fits begins; the first time counts."""
        rows = self.record.rows.get(place, [])
        if fit >= len(rows):
            rows = [*rows, num_rows]
            self.record = replace(self.record, rows={**self.record.rows, place: rows})
        return rows[min(fit, len(rows) - 1)]

    def _noted(
        self, known: dict[str, list[T]], key: str, logger: Logger, value: "T | None"
    ) -> "dict[str, list[T]]":
        seen = self.recorded.setdefault(key, [])
        if value is None or any(logger is each for each in seen):
            return known
        seen.append(logger)
        values = list(known.get(key, []))
        values[len(seen) - 1 : len(seen)] = [value]
        return {**known, key: values}


@functools.cache
def continue_histories(run: Run) -> _Process:
    """Have the loggers that the program is about to make continue those of earlier attempts.

    In a later attempt, this must be called before the program starts; the first time counts.

    Args:
        run: The run that this worker belongs to.

    Returns:
        What the loggers of this process share.

    Raises:
        RecordError: If the record of earlier attempts is damaged.
        StorageError: If remote storage does not answer.
    """
    _process.begin(run, (own_attempt() and read_loggers(run)) or LoggersRecord())
    _patch()
    return _process


_process = _Process()  # classes are patched, so there is one


@functools.cache
def _patch() -> None:
    seams.open_tables_with(_process.adopt)
    seams.choose_versions_with(_process.version)
    seams.watch_scalars(_process.watch)
    seams.choose_run_ids_with(_process.run_id)
    seams.name_further_runs_with(_process.wandb_id)


class Histories(OwnCallback):
    """Notes in the launcher's checkpoints how far each logger is, and cuts what came later.

    Args:
        run: The run that this worker belongs to.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        continue_histories(run)
        self._rows: dict[str, int] | None = None
        self._scalars: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self._is_new = True
        self._opened: dict[str, int] = {}
        self._begun: dict[str, int] = {}
        self._curves: list[TensorBoardLogger] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record where the loggers write, and how many rows their files have."""
        del pl_module
        if stage != "fit":
            return
        self._rows, self._is_new, self._scalars = None, True, {}
        if not trainer.is_global_zero:
            return
        process = continue_histories(self._run)
        before = process.record
        self._opened, self._begun, self._curves = {}, {}, []
        for logger in trainer.loggers:
            process.note(logger)
            place = self._place(logger)
            if place is None:
                continue
            number = process.begin_fit(logger, place)
            if isinstance(logger, CSVLogger):
                self._opened[place] = _num_rows(logger)
                self._begun[place] = process.note_rows(place, number, self._opened[place])
            elif isinstance(logger, TensorBoardLogger) and number == 0:
                # A later fit in a directory counts from 0 again; the steps of the first one stay.
                self._curves.append(logger)
        if process.record != before:
            process.record.write(self._run)

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Take how many rows had been logged when the checkpoint was saved."""
        del pl_module
        if not trainer.training:
            return
        state = checkpoint.get(STATE_KEY, {})
        self._scalars = state.get("scalars", {})
        self._is_new, self._rows = False, state.get("rows")
        for logger in self._curves if own_attempt() else ():
            seams.keep_hyperparameters(logger)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the curves of a fit that starts anew, before Lightning logs hyperparameters."""
        del pl_module
        # Sharded strategies load their checkpoint later.
        if self._is_new and not trainer.strategy.restore_checkpoint_after_setup:
            self._cut_curves(0)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Note how many rows have been logged, if the launcher is saving."""
        del pl_module
        if STATE_KEY not in checkpoint:
            return
        checkpoint[STATE_KEY]["logged_steps"] = step = seams.logged_steps(trainer)
        if trainer.is_global_zero:
            checkpoint[STATE_KEY]["rows"] = rows = {}
            for logger in trainer.loggers:
                place = self._place(logger)
                if place and isinstance(logger, CSVLogger):
                    rows[place] = _num_rows(logger)
                elif place:
                    logger.save()  # what a killed process has not written does not come again
            checkpoint[STATE_KEY]["scalars"] = continue_histories(self._run).scalars_from(step)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut what an earlier attempt has logged after the place where training resumes."""
        del pl_module
        if not trainer.is_global_zero or not own_attempt():
            return
        self._cut_curves(seams.logged_steps(trainer))
        for logger in trainer.loggers:
            place = self._place(logger)
            if place in self._opened and isinstance(logger, CSVLogger):
                num_kept = (self._rows or {}).get(place, self._begun[place])
                _cut_rows(logger, num_kept, self._opened[place])

    def _cut_curves(self, step: int) -> None:
        for logger in self._curves if own_attempt() else ():
            seams.purge(logger, step)
            # An epoch's start has logged at the step that training resumes with.
            for logged_step, scalars in self._scalars.get(self._place(logger) or "", []):
                logger.log_metrics(scalars, logged_step)
        self._curves = []

    def _place(self, logger: Logger) -> str | None:
        if isinstance(logger, CSVLogger | TensorBoardLogger) and seams.is_open(logger):
            return place(self._run, logger.log_dir)
        return None


def _cut_rows(logger: CSVLogger, num_kept: int, num_opened: int) -> None:
    path, filesystem = seams.table_of(logger)
    header, *rows = tables.read(path, filesystem) or [[]]
    if len(rows) < num_kept:
        say(f"{num_kept - len(rows)} rows are missing in {path}: its last upload was earlier.")
    elif num_opened > num_kept:
        tables.replace(path, filesystem, [header, *rows[:num_kept], *rows[num_opened:]])


def _num_rows(logger: CSVLogger) -> int:
    logger.save()
    return max(0, len(tables.read(*seams.table_of(logger))) - 1)
