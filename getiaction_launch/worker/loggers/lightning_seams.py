"""Every place where continuing a logger depends on Lightning's internals.

As in :mod:`getiaction_launch.worker.lightning_seams`, each function says why Lightning's public
interface is not enough, and has a test in ``tests/unit/test_loggers.py``. Classes are patched,
since a program may open a logger before its first Trainer, where no hook has run yet.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from fsspec import AbstractFileSystem
from lightning.fabric.loggers.csv_logs import CSVLogger as FabricCSVLogger
from lightning.fabric.loggers.csv_logs import _ExperimentWriter
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from getiaction_launch.worker.lightning_seams import LightningState
from getiaction_launch.worker.loggers import tables

Versioned: TypeAlias = FabricCSVLogger | TensorBoardLogger


def open_tables_with(adopt: Callable[[str, AbstractFileSystem], list[str] | None]) -> None:
    """Let a CSVLogger continue a ``metrics.csv`` instead of deleting it.

    There is no argument for that; the writer deletes the file in its constructor.

    Args:
        adopt: Called with the path of the file and its file system. Returns the columns of the
            file if it shall be continued, or None if Lightning may delete it.
    """
    original = _ExperimentWriter._check_log_dir_exists  # noqa: SLF001

    def check(self: _ExperimentWriter) -> None:
        columns = adopt(self.metrics_file_path, self._fs)
        if columns is None:
            original(self)
        else:
            self.metrics_keys = columns

    _ExperimentWriter._check_log_dir_exists = check  # type: ignore[method-assign] # noqa: SLF001
    _ExperimentWriter._rewrite_with_new_header = _widen  # type: ignore[method-assign] # noqa: SLF001


def _widen(self: _ExperimentWriter, fieldnames: list[str]) -> None:
    """Add columns in one step; Lightning empties the file first, and may be killed then."""
    path, filesystem = self.metrics_file_path, self._fs
    header, *rows = tables.read(path, filesystem)
    known = [dict(zip(header, row, strict=False)) for row in rows]
    widened = [[row.get(name, "") for name in fieldnames] for row in known]
    tables.replace(path, filesystem, [fieldnames, *widened])


def choose_versions_with(choose: Callable[[Versioned], int | None]) -> None:
    """Let loggers without a version of the user's get one from ``choose``; None: the next free one.

    Lightning takes the next free one, so each attempt would write into another directory.
    """
    for kind in (FabricCSVLogger, TensorBoardLogger):
        _wrap_next_version(kind, choose)


def _wrap_next_version(kind: Any, choose: Callable[[Versioned], int | None]) -> None:  # noqa: ANN401 - a class
    original = kind._get_next_version  # noqa: SLF001

    @functools.wraps(original)
    def next_version(self: Versioned) -> int:
        version = choose(self)
        found: int = original(self) if version is None else version
        return found

    kind._get_next_version = next_version  # noqa: SLF001


def choose_run_ids_with(choose: Callable[[str], str | None]) -> None:
    """Let MLFlowLoggers without a run id of the user's get one from ``choose``.

    MLflow's ids come from its server, so no variable can name a run before it exists.

    Args:
        choose: Called with tracking URI and name of the experiment; returns a run's id or None.
    """
    original = MLFlowLogger.__init__

    @functools.wraps(original)
    def init(self: MLFlowLogger, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in Lightning
        original(self, *args, **kwargs)
        run_id = choose(experiment_of(self)) if self._run_id is None else None
        if run_id is not None and _is_run(self, run_id):
            self._run_id = run_id
            self._mlflow_client.update_run(run_id, status="RUNNING")

    MLFlowLogger.__init__ = init  # type: ignore[method-assign]


def _is_run(logger: MLFlowLogger, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        run = logger._mlflow_client.get_run(run_id)  # noqa: SLF001
    except MlflowException:
        return False
    return str(run.info.lifecycle_stage) == "active"


def experiment_of(logger: MLFlowLogger) -> str:
    """Return tracking URI and name of an experiment, which MLFlowLogger has no attributes for."""
    return f"{logger._tracking_uri} {logger._experiment_name}"  # noqa: SLF001


def name_further_runs_with(choose: Callable[[], str | None]) -> None:
    """Give each further WandbLogger of a process a run of its own.

    ``WANDB_RUN_ID`` names one run, and a second logger would continue the run of the first. The id
    is an argument of the constructor only.

    Args:
        choose: Called before a run is started; returns the run's id, or None if W&B chooses.
    """
    original: Any = WandbLogger.experiment

    def experiment(self: WandbLogger) -> Any:  # noqa: ANN401 - as in Lightning
        if self._experiment is None and self._wandb_init.get("id") is None:
            self._wandb_init["id"] = self._id = choose()
        return original.fget(self)

    WandbLogger.experiment = property(experiment)  # type: ignore[assignment,method-assign]


def is_open(logger: object) -> bool:
    """Return whether a logger has started to log; the public attribute would start it."""
    return getattr(logger, "_experiment", None) is not None


def table_of(logger: CSVLogger) -> tuple[str, AbstractFileSystem]:
    """Return path and file system of the file that an open CSVLogger writes."""
    writer = logger.experiment
    return writer.metrics_file_path, writer._fs  # noqa: SLF001


def set_columns(logger: CSVLogger, columns: list[str]) -> None:
    """Set the columns of an open CSVLogger's file, which it never reads from the file."""
    logger.experiment.metrics_keys = columns


def purge(logger: TensorBoardLogger, step: int) -> None:
    """Let TensorBoard forget what earlier event files of a directory say from a step on.

    This is what ``SummaryWriter(purge_step=...)`` writes when it is opened; but Lightning opens it
    before the checkpoint is read that says which step that is.
    """
    writer = logger.experiment._get_file_writer()  # noqa: SLF001
    writer.add_event(Event(step=step, file_version="brain.Event:2"))
    writer.add_event(Event(step=step, session_log=SessionLog(status=SessionLog.START)))


def keep_hyperparameters(logger: TensorBoardLogger) -> None:
    """Let a logger log no placeholder for hyperparameters, since an earlier event file has one.

    Lightning logs ``hp_metric`` each time that a fit begins; the switch is an argument of the
    constructor only.
    """
    logger._default_hp_metric = False  # noqa: SLF001


def watch_scalars(watch: Callable[[TensorBoardLogger, Mapping[str, object], int], None]) -> None:
    """Call ``watch`` with the metrics and the step of all that is logged to TensorBoard.

    No hook of a Trainer sees what callbacks log, such as the learning rate at an epoch's start.
    """
    original = TensorBoardLogger.log_metrics

    @functools.wraps(original)
    def log_metrics(
        self: TensorBoardLogger, metrics: Mapping[str, Any], step: int | None = None
    ) -> None:
        original(self, metrics, step)
        watch(self, metrics, step or 0)

    TensorBoardLogger.log_metrics = log_metrics  # type: ignore[assignment,method-assign]


def logged_steps(trainer: Trainer) -> int:
    """Return how many steps loggers have seen; with several optimizers it is not global_step."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped  # noqa: SLF001


def continue_steps(trainer: Trainer, resumed: LightningState) -> None:
    """Let loggers continue at the step that a checkpoint has in ``logged_steps``, once.

    To be called before a batch is fetched: Lightning counts one step too many when it resumes at
    the end of an epoch.
    """
    if (steps := resumed.pop("logged_steps", None)) is not None:
        trainer.fit_loop.epoch_loop._batches_that_stepped = steps  # noqa: SLF001
