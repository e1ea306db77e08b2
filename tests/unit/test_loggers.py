"""However often a run is interrupted, each of its loggers has one history."""

import csv
import os
import shutil
import sys
import types
from pathlib import Path

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from tiny import BATCHES, Tiny

from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.checkpoint import all_committed, newest
from getiaction_launch.run.loggers import GIVEN_VARIABLE, LoggersRecord, tracking_variables
from getiaction_launch.run.run import Run
from getiaction_launch.worker.loggers.histories import continue_histories

EVERY_STEP = {"log_every_n_steps": 1}


class Logging(Tiny):
    """Logs its step as well, and one metric that begins later, which widens the table."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})

    def training_step(self, batch, batch_idx):
        """Log."""
        self.log("at", float(self.global_step))
        if self.global_step >= 4:
            self.log("late", 1.0)
        return super().training_step(batch, batch_idx)


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def curve(directory: Path, tag: str = "at") -> list[tuple[int, float]]:
    """What TensorBoard shows."""
    events = EventAccumulator(str(directory), purge_orphaned_data=True)
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def begin(worker, attempt: int, resume_from=None, period=float("inf")) -> None:
    """Be the worker of an attempt that has just started."""
    worker.monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", str(attempt))
    shutil.rmtree(worker.run.launch_directory / "finished", ignore_errors=True)
    worker.start(resume_from, period)
    continue_histories(worker.run)  # as before a program whose earlier attempt had loggers


def forget_ends(worker) -> None:
    """Remove the end states of fits, which a worker that is killed earlier does not leave."""
    shutil.rmtree(worker.run.directory / "launch/finished")


def fit(worker, *loggers, **words):
    """Train with these loggers."""
    return worker.fit_again(kind=Logging, logger=list(loggers), **EVERY_STEP, **words)


def rates() -> list[LearningRateMonitor]:
    """What logs at the starts of epochs and of batches, before the launcher's callbacks."""
    return [LearningRateMonitor("epoch"), LearningRateMonitor("step")]


@pytest.mark.parametrize("version", ["", None], ids=["in the run's directory", "elsewhere"])
def test_rows_and_curves_are_those_of_an_undisturbed_run(worker, tmp_path, version):
    """Interrupted, then killed after its last save, then killed before its first: each row once.

    A logger without a version writes where it wrote in the first attempt, also if the program
    opens it before its first Trainer.
    """
    # TensorBoard orders the files of one second by process, then by the digits of a counter. Here
    # all attempts are one process, whose counter may pass from 9 to 10.
    worker.monkeypatch.setattr(
        event_file_writer, "_global_uid", event_file_writer.AtomicCounter(10)
    )

    def loggers(name: str):
        place = {"save_dir": tmp_path / name, "name": "", "version": version}
        if version is not None:
            place["save_dir"] = worker.run.directory / name
        table, board = CSVLogger(**place), TensorBoardLogger(**place)
        table.log_hyperparams({"lr": 0.1})
        return table, board

    begin(worker, 0)
    plain = loggers("plain")
    assert fit(worker, *plain, callbacks=rates())
    forget_ends(worker)  # that was another run

    begin(worker, 0)
    first = loggers("run")
    assert fit(worker, *first, callbacks=rates(), stop_at=BATCHES - 1) is None  # between two epochs
    begin(worker, 1, newest(worker.run).path, period=0)
    second = loggers("run")
    # As if it were killed at the end, with a save in each step.
    assert fit(worker, *second, callbacks=rates())
    kept = all_committed(worker.run)[-2]
    assert kept.step < 10
    forget_ends(worker)
    begin(worker, 2, kept.path)
    third = loggers("run")
    assert fit(worker, *third, callbacks=rates())

    places = {logger.log_dir for logger in (*first, *second, *third)}
    assert len(places) == 1 + (version is None and first[0].log_dir != first[1].log_dir)
    table = Path(first[0].log_dir) / "metrics.csv"
    assert rows(table) == rows(Path(plain[0].log_dir) / "metrics.csv")
    assert [row["at"] for row in rows(table) if row["at"]] == [f"{n}.0" for n in range(10)]
    for tag in ("at", "val", "epoch", "hp_metric", "lr-Adam"):
        assert curve(Path(first[1].log_dir), tag) == curve(Path(plain[1].log_dir), tag)
    assert not list(table.parent.glob(".*"))

    forget_ends(worker)
    begin(worker, 3)  # no checkpoint is left
    fourth = loggers("run")
    assert fit(worker, *fourth, stop_at=2) is None
    assert [row["at"] for row in rows(table)] == ["0.0", "1.0", "2.0"]
    assert [step for step, _ in curve(Path(first[1].log_dir))] == [0, 1, 2]


def test_fits_that_share_a_table_keep_each_others_rows(worker, tmp_path):
    """The second fit is started anew: the first one's rows stay, the second's are replaced."""

    def program(stop_at=None):
        table = CSVLogger(tmp_path / "table", name="", version="")
        fit(worker, table, max_epochs=1)
        return fit(worker, table, max_epochs=1, stop_at=stop_at)

    begin(worker, 0)
    program()
    path = tmp_path / "table/metrics.csv"
    undisturbed = rows(path)
    assert len(undisturbed) == 12
    record = LoggersRecord.read(worker.run)
    assert record.rows == {str(tmp_path / "table"): [0, 6]}


def test_a_row_without_its_end_and_a_strangers_file_are_left_out(worker, tmp_path):
    """A killed process leaves half a row; another run's file of that name starts over."""
    begin(worker, 0)
    assert fit(worker, CSVLogger(tmp_path / "ours", name="", version=""), stop_at=2) is None
    ours = tmp_path / "ours/metrics.csv"
    with ours.open("a") as file:
        file.write("7.0,0,")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/metrics.csv").write_text("step\n1\n")
    begin(worker, 1, newest(worker.run).path)
    loggers = [CSVLogger(tmp_path / name, name="", version="") for name in ("ours", "other")]
    assert fit(worker, *loggers)
    assert [row["at"] for row in rows(ours) if row["at"]] == [f"{n}.0" for n in range(10)]
    assert rows(tmp_path / "other/metrics.csv")[0]["at"] == "3.0"


def test_a_widened_table_is_never_empty(worker, tmp_path, monkeypatch):
    """A new column is added in one step: a process that is killed then loses no row."""
    begin(worker, 0)
    logger = CSVLogger(tmp_path / "table", name="", version="")
    logger.log_metrics({"a": 1.0}, 0)
    logger.save()
    logger.log_metrics({"b": 2.0}, 1)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            logger.save()
    assert rows(tmp_path / "table" / "metrics.csv") == [{"a": "1.0", "step": "0"}]


def given(tmp_path: Path, name: str, **environment: str) -> dict[str, str]:
    """The variables of a new run."""
    run = Run.claim(str(tmp_path), name)
    Attempt.begin(run, f"host.{name}", "127.0.0.1", 1)
    variables = tracking_variables(run, environment)
    Attempt.begin(run, "other.2", "127.0.0.1", 2)
    assert tracking_variables(Run(run.directory), environment) == variables
    return variables


def test_trackers_get_one_id_for_a_run_and_another_for_each_run(tmp_path):
    """In each attempt the same; a new run in a removed directory gets another one."""
    first, second = given(tmp_path, "act"), given(tmp_path, "act")
    assert first["WANDB_RESUME"] == "allow"
    assert first["WANDB_RUN_ID"] != second["WANDB_RUN_ID"]
    assert first["COMET_EXPERIMENT_KEY"].isalnum()
    assert len(first["COMET_EXPERIMENT_KEY"]) == 32
    assert first["NEPTUNE_CUSTOM_RUN_ID"] == first["COMET_EXPERIMENT_KEY"]
    again = given(tmp_path / "again", "act")
    assert again["WANDB_RUN_ID"] != first["WANDB_RUN_ID"]


@pytest.mark.parametrize("name", ["WANDB_RUN_ID", "WANDB_RESUME"])
def test_what_the_user_has_set_stays(tmp_path, name):
    """With either of W&B's variables the launcher sets neither; a run in a run sets its own."""
    chosen = given(tmp_path, "act", **{name: "users"})
    assert not any(key.startswith("WANDB") for key in chosen)
    assert "COMET_EXPERIMENT_KEY" in chosen
    outer = given(tmp_path, "outer")
    inner = given(tmp_path, "inner", **outer)
    assert inner["WANDB_RUN_ID"] != outer["WANDB_RUN_ID"]
    assert inner[GIVEN_VARIABLE].split() == list(inner)[:-1]


def test_wandb_continues_one_run_and_starts_one_for_each_logger(worker, tmp_path, monkeypatch):
    """A second logger of a program has a run of its own, the same in every attempt."""
    import wandb

    for name, value in given(tmp_path, "act").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    ids = []
    for attempt in range(2):
        begin(worker, attempt)
        for _ in range(2):
            logger = WandbLogger(save_dir=tmp_path)
            fit(worker, logger, max_epochs=1, limit_train_batches=1)
            ids.append(logger.version)
            wandb.finish()
    wandb.teardown()  # the next test's directory is another
    base = os.environ["WANDB_RUN_ID"]
    assert ids == [base, f"{base}-1"] * 2


class FakeMlflow:
    """As much of MLflow as its logger needs, with runs that outlive the client."""

    def __init__(self) -> None:
        self.runs: dict[str, list[tuple[str, float, int]]] = {}
        self.status: dict[str, str] = {}
        mlflow, tracking = types.ModuleType("mlflow"), types.ModuleType("mlflow.tracking")
        entities, errors = types.ModuleType("mlflow.entities"), types.ModuleType("x")
        tracking.MlflowClient = lambda _uri: self
        tracking.context = types.SimpleNamespace(registry=None)
        registry = types.ModuleType("mlflow.tracking.context.registry")
        registry.resolve_tags = lambda tags: tags
        entities.Metric = lambda key, value, step, **_: (key, float(value), step)
        entities.Param = lambda key, value: (key, value)
        errors.MlflowException = KeyError
        mlflow.set_tracking_uri = lambda _uri: None
        self.modules = {
            "mlflow": mlflow,
            "mlflow.tracking": tracking,
            "mlflow.tracking.context": types.ModuleType("context"),
            "mlflow.tracking.context.registry": registry,
            "mlflow.entities": entities,
            "mlflow.exceptions": errors,
        }

    def get_experiment_by_name(self, _name):
        """There is one."""
        return types.SimpleNamespace(lifecycle_stage="active", experiment_id="0")

    def create_run(self, experiment_id, tags):
        """Choose an id, as the server does."""
        del experiment_id, tags
        self.runs[f"run{len(self.runs)}"] = []
        return self.get_run(f"run{len(self.runs) - 1}")

    def get_run(self, run_id):
        """Fail if it does not exist."""
        self.runs[run_id]
        info = types.SimpleNamespace(run_id=run_id, experiment_id="0", lifecycle_stage="active")
        return types.SimpleNamespace(info=info)

    def log_batch(self, run_id, metrics=(), params=()):
        """Keep what is logged."""
        del params
        self.runs[run_id] += metrics

    def update_run(self, run_id, status):
        """Set the status."""
        self.status[run_id] = status

    set_terminated = update_run


def test_mlflow_continues_one_run(worker, monkeypatch):
    """Its ids are the server's, so they are recorded; a run that was deleted is not missed."""
    from lightning.pytorch.loggers import mlflow as lightnings

    fake = FakeMlflow()
    monkeypatch.setattr(lightnings, "_MLFLOW_AVAILABLE", True)
    for name, module in fake.modules.items():
        monkeypatch.setitem(sys.modules, name, module)

    def program(stop_at=None):
        logger = MLFlowLogger(tracking_uri="file:x")
        logger.log_hyperparams({"lr": 0.1})
        return fit(worker, logger, stop_at=stop_at)

    begin(worker, 0)
    assert program(stop_at=2) is None
    begin(worker, 1, newest(worker.run).path)
    assert program()
    (metrics,) = fake.runs.values()
    assert [value for key, value, _ in metrics if key == "at"] == list(range(10))
    assert fake.status == {"run0": "FINISHED"}
    fake.runs.clear()
    begin(worker, 2)
    assert program()
    assert len(fake.runs) == 1


def test_a_trainer_that_does_not_fit_is_left_alone(worker):
    """Nothing is recorded of its loggers."""
    begin(worker, 0)
    Trainer(logger=CSVLogger(worker.run.directory, name="", version=""), accelerator="cpu")
    assert LoggersRecord.read(worker.run) is None
