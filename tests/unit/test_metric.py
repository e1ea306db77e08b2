"""The metric that stands for a run, and numbers that are not finite."""

import ast
import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from tiny import Tiny

from getiaction_launch.cli.listing.table import listing
from getiaction_launch.cli.show import as_json, final_loss, phase, print_json, summary
from getiaction_launch.launch.listing.below import Found
from getiaction_launch.launch.listing.entry import Entry
from getiaction_launch.launch.status import RunStatus, read_status
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.run.metric import shown_metric, warnings
from getiaction_launch.run.records import Done, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

PACKAGES = [Path(__file__).parents[2] / name for name in ("getiaction", "getiaction_launch")]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ("train/kl_loss train/l1_loss train/loss val/l1_loss val/loss", "val/loss"),
        ("a_loss train_loss val_loss", "val_loss"),
        ("loss_val loss_train", "loss_val"),
        ("train/kl_loss train/loss train/loss_step train/loss_epoch", "train/loss"),
        ("training_loss_epoch training_loss_step", "training_loss_epoch"),
        ("val/loss/dataloader_idx_1 val/loss/dataloader_idx_0 loss", "val/loss/dataloader_idx_0"),
        ("aux_loss loss z", "loss"),
        ("acc train/kl_loss valid/kl_loss", "valid/kl_loss"),
        ("acc b_loss", "b_loss"),
        ("reward acc", "acc"),
        ("", None),
    ],
)
def test_validations_loss_comes_first_then_trainings(names, shown):
    """In the usual spellings; other losses and other metrics stand in only where there is none."""
    assert shown_metric(Progress(metrics=dict.fromkeys(names.split(), 1.0))) == shown


def test_what_is_monitored_comes_before_any_loss(tmp_path, capsys):
    """``ls``, ``status``, the result and ``--json`` show it; a missing one is passed over."""
    metrics = {"train/a_loss": 3.0, "val/acc": 0.5, "val/loss": 2.0}
    progress = Progress(metrics=metrics, monitored=["missing", "val/acc"], step=1)
    assert final_loss(progress) == "val/acc 0.5  train/a_loss 3  val/loss 2"
    run = Run.claim(str(tmp_path), "act")
    run.write("plan", {})
    running = RunStatus(run, JobState.RUNNING, progress=progress)
    assert phase(running) == "step 1/?  val/acc 0.5"
    header, row = listing([Entry(Found(run, 0.0), running)]).splitlines()
    assert header.split()[3] == "METRIC"
    assert "val/acc 0.5" in row
    print_json(as_json(running))
    assert json.loads(capsys.readouterr().out)["metric"] == "val/acc"


def test_a_worker_reports_what_callbacks_and_schedulers_monitor(worker):
    """ModelCheckpoint's metric is first, then early stopping's, then the plateau scheduler's."""
    callbacks = [
        EarlyStopping("loss", patience=9),
        ModelCheckpoint(monitor="step", mode="max"),
        ModelCheckpoint(monitor="lr", dirpath=worker.run.directory / "lr"),
    ]
    worker.start()

    class Logging(Tiny):
        def training_step(self, batch, batch_idx):
            self.log("lr", 0.5)
            return super().training_step(batch, batch_idx)

    worker.fit_again(kind=Logging, callbacks=callbacks, enable_checkpointing=True)
    progress = Progress.read(worker.run)
    assert progress.monitored == ["lr", "loss", "val"]
    assert progress.modes == {"step": "max", "lr": "min", "loss": "min"}


class Diverging(Tiny):
    """Its loss is NaN in some batches, counted from 0, and so are its weights after the first."""

    bad = range(3, 99)

    def training_step(self, batch, batch_idx):
        """Be NaN."""
        loss = super().training_step(batch, batch_idx)
        return loss * (math.nan if self.trainer.fit_loop.total_batch_idx in self.bad else 1)


def test_a_loss_that_is_not_finite_is_reported_since_its_first_step(worker, capfd):
    """After an interruption too; and the run's result, its log, status and JSON say it."""
    assert worker.fit(stop_at=6, kind=Diverging) is None
    saved = newest(worker.run).path
    assert worker.fit(resume_from=saved, kind=Diverging)
    progress = Progress.read(worker.run)
    assert progress.not_finite["loss"] == 4
    assert "the loss is not finite (NaN or infinite) since step 4" in capfd.readouterr().err

    Done(**vars(progress)).write(worker.run)
    text = summary(read_status(worker.run))
    assert "tiny/version_0 SUCCEEDED" in text
    assert "\nwarning      the loss is not finite (NaN or infinite) since step 4\n" in text
    running = RunStatus(worker.run, JobState.RUNNING, progress=progress)
    assert "the loss is not finite (NaN or infinite) since step 4" in phase(running)
    print_json(as_json(running))
    answer = json.loads(capfd.readouterr().out, parse_constant=pytest.fail)
    assert answer["progress"]["metrics"]["loss"] == "NaN"
    assert answer["warnings"] == warnings(progress)


def test_a_loss_that_is_finite_again_is_no_warning(worker):
    """The last batch decides; two optimizers' losses of one batch count together."""

    class Recovering(Tiny):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            # The gradients stay finite, and so do the weights.
            return loss + (math.nan if self.trainer.fit_loop.total_batch_idx in {3, 8} else 0)

    assert worker.fit(kind=Recovering)
    assert warnings(Progress.read(worker.run)) == []

    class Gan(Diverging):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss, retain_graph=True)
            self.manual_backward(self.layer(batch).sum() * 0 + 1)

    worker.fit(kind=Gan)
    assert "loss" in Progress.read(worker.run).not_finite


def test_a_shown_metric_that_is_not_finite_is_a_warning():
    """Other metrics may be so for good reasons, such as the best distance so far."""
    progress = Progress(
        metrics={"val/loss": math.nan, "best": math.inf}, not_finite={"val/loss": 7, "best": 1}
    )
    assert warnings(progress) == ["val/loss is not finite (NaN or infinite) since step 7"]


def test_records_are_json_with_any_number_and_are_read_as_written(tmp_path):
    """So are those of earlier versions, which had bare words."""
    run = Run.claim(str(tmp_path), "act")
    numbers = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}
    Progress(metrics=numbers, seconds_per_step=math.inf).write(run)
    text = (run.launch_directory / "progress.json").read_text()
    strict = json.loads(text, parse_constant=pytest.fail)
    assert strict["metrics"] == {"a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1.5}
    for written in (text, json.dumps({"metrics": numbers, "seconds_per_step": math.inf})):
        (run.launch_directory / "progress.json").write_text(written)
        read = Progress.read(run)
        assert math.isnan(read.metrics["a"])
        assert (read.metrics["c"], read.seconds_per_step) == (-math.inf, math.inf)


def test_json_is_written_in_one_place():
    """Any other ``json.dump`` refuses numbers that JSON does not have."""
    for package in PACKAGES:
        for path in package.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("json.dump"):
                    assert "allow_nan=False" in ast.unparse(node), path


def test_watching_the_loss_reads_nothing_from_the_device():
    """A value of a tensor on the meta device cannot be read, so reading one would raise."""
    from getiaction_launch.worker.fitting.judgement import LossWatch

    watch = LossWatch()
    for step in range(3):
        watch.see(torch.zeros((), device="meta"), step)
        watch.see("no tensor", step)
        watch.end_batch()
