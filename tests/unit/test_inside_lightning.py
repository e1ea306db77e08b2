"""With the launcher's callbacks, Lightning's own functions do what they do without them."""

import copy
import dataclasses
import pickle
from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LambdaCallback,
    ModelCheckpoint,
    Timer,
)
from tiny import BATCHES, EPOCHS, QUIET, Tiny, equal, loader

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.checkpoint import newest
from getiaction_launch.worker.interruption import Interruption
from getiaction_launch.worker.loggers.histories import Histories
from getiaction_launch.worker.progress import ProgressReport
from getiaction_launch.worker.saving.leftovers import Leftovers

OWN = (Interruption, ProgressReport, Histories, Leftovers)
"""The first two are always there, the others during a fit."""


def own(callbacks):
    """The launcher's callbacks among these."""
    return [callback for callback in callbacks if isinstance(callback, OWN)]


def kinds(callbacks):
    """Their classes."""
    return [type(callback) for callback in own(callbacks)]


@pytest.mark.parametrize(
    "words",
    [
        {"limit_train_batches": 0},
        {"max_time": timedelta(0)},
        {"max_epochs": 0},
        {"max_steps": 0},
        {"fast_dev_run": True},
    ],
    ids=str,
)
def test_a_fit_with_nothing_to_train_ends(worker, words):
    """It reports that it is finished, and so does the one of a later attempt."""
    for attempt in "01":
        worker.monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", attempt)
        assert worker.fit(**words)
        assert worker.run.read("progress")["phase"] == "finished"


def test_a_finished_training_is_not_trained_on(worker, tmp_path):
    """A ``ckpt_path`` of a training that is over ends at once, with its counters."""
    worker.start()
    trainer = Trainer(**QUIET, max_epochs=1)
    trainer.fit(Tiny(), loader(), loader())
    trainer.save_checkpoint(tmp_path / "over.ckpt")
    again = Trainer(**QUIET, max_epochs=1)
    again.fit(Tiny(), loader(), loader(), ckpt_path=tmp_path / "over.ckpt")
    assert (again.global_step, again.current_epoch) == (BATCHES, 1)


def test_evaluation_alone_needs_no_fit(worker):
    """Validating, testing and predicting work without one, before it and after it."""
    worker.start()

    class Model(Tiny):
        def test_step(self, batch, batch_idx):
            self.validation_step(batch, batch_idx)

        def predict_step(self, batch, batch_idx):  # noqa: ARG002 - as Lightning calls it
            return self.layer(batch)

    trainer, model = Trainer(**QUIET, max_epochs=1), Model()
    for _ in range(2):
        trainer.validate(model, loader())
        trainer.test(model, loader())
        assert len(trainer.predict(model, loader())) == BATCHES
        trainer.fit(model, loader(), loader())


def test_each_trainer_has_callbacks_of_its_own(worker):
    """Whether a list of callbacks is shared, taken from a Trainer, or assigned to one."""
    worker.start()
    during = []
    shared = [
        Timer(),
        LambdaCallback(on_train_start=lambda t, _: during.append(kinds(t.callbacks))),
    ]
    first, second = (Trainer(**QUIET, max_epochs=1, callbacks=shared) for _ in range(2))
    third = Trainer(**QUIET, max_epochs=1, callbacks=second.callbacks)
    fourth = Trainer(**QUIET, max_epochs=1)
    fourth.callbacks = first.callbacks
    trainers = [first, second, third, fourth]
    for trainer in (*trainers, *trainers):
        trainer.fit(Tiny(), loader(), loader())
        trainer.validate(trainer.lightning_module, loader())
    assert during == [list(OWN)] * len(during)
    assert [kinds(trainer.callbacks) for trainer in trainers] == [list(OWN[:2])] * 4
    seen = [callback for trainer in trainers for callback in own(trainer.callbacks)]
    assert len(set(map(id, seen))) == len(seen)
    assert first.callbacks[0] is second.callbacks[0] is shared[0]


def test_a_list_gets_lightnings_own_callbacks_as_ever(worker):
    """What Lightning adds to the user's list is still there, and nothing of the launcher's."""
    worker.start()
    Trainer(**QUIET)  # the first Trainer of a process is under way when the launcher hears of it
    given = [Timer()]
    Trainer(**{**QUIET, "enable_checkpointing": True}, callbacks=given)
    assert [type(callback) for callback in given] == [Timer, ModelCheckpoint]


class Still(Tiny):
    """Can be pickled."""

    def __init__(self):
        super().__init__()
        self.on_step = abs


class CopyInFit(Callback):
    """Copies the Trainer inside of a fit, as tools for debugging do."""

    def __init__(self, tmp_path):
        self.tmp_path = tmp_path

    def on_fit_start(self, trainer, *_):
        """Copy it in three ways."""
        copy.deepcopy(trainer)
        pickle.loads(pickle.dumps(trainer))  # noqa: S301 - our own
        torch.save(trainer, self.tmp_path / "trainer.pt")


def test_trainers_can_be_copied_and_saved(worker, tmp_path):
    """Before, in and after a fit; copies train on, with callbacks of their own."""
    worker.start()
    words = {**QUIET, "enable_checkpointing": True}
    keep = ModelCheckpoint(dirpath=tmp_path, monitor="val", save_last="link")
    trainer = Trainer(**words, max_epochs=1, callbacks=[keep, CopyInFit(tmp_path)])
    trainers = [copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))]  # noqa: S301
    trainer.fit(Still(), loader(), loader())
    trainers += [copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))]  # noqa: S301
    trainers += [torch.load(tmp_path / "trainer.pt", weights_only=False)]
    for each in trainers:
        each.callbacks = [c for c in each.callbacks if not isinstance(c, CopyInFit)]
        each.fit_loop.max_epochs = 2
        each.fit(Still(), loader(), loader())
        assert kinds(each.callbacks) == list(OWN[:2])
        assert not set(map(id, own(each.callbacks))) & set(map(id, own(trainer.callbacks)))


def test_what_is_pickled_needs_no_launcher(worker):
    """A Trainer that was saved in a run loads where the launcher is not installed."""
    worker.start()
    trainer = Trainer(**QUIET, max_epochs=1)
    trainer.fit(Still(), loader(), loader())
    assert b"getiaction" not in pickle.dumps(trainer.callbacks)


def test_loaders_can_be_copied_after_a_fit(worker):
    """Loaders with processes of their own, too."""
    data = torch.utils.data.DataLoader(torch.rand(10, 4), batch_size=2, num_workers=1)
    assert worker.fit(stop_at=2, data=data) is None
    again = torch.utils.data.DataLoader(torch.rand(10, 4), batch_size=2, num_workers=1)
    assert worker.fit(resume_from=newest(worker.run).path, data=again)
    for each in (data, again):
        assert len(list(pickle.loads(pickle.dumps(each)))) == BATCHES  # noqa: S301
        assert len(list(copy.deepcopy(each))) == BATCHES
        assert type(each.batch_sampler) is torch.utils.data.BatchSampler


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_a_strategy_that_starts_processes_is_refused_by_a_worker(worker, strategy):
    """The error names the strategy that works."""
    worker.start()
    worker.monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        worker.monkeypatch.setenv(name, value)
    trainer = Trainer(**QUIET, max_epochs=1, strategy=strategy, devices=1)
    with pytest.raises(CheckError, match="strategy: ddp"):
        trainer.fit(Tiny(), loader(), loader())


def test_a_trainer_that_would_train_alone_beside_others_is_refused(worker):
    """Whatever a script has set, it must not train several times on all data, and look well."""
    worker.start()
    plan = Plan.of(worker.run)
    worker.run.write("plan", dataclasses.replace(plan, topology=Topology(2, 1, 0)).to_json())
    trainer = Trainer(**QUIET, max_epochs=1)
    with pytest.raises(CheckError, match="each of the 2 workers") as caught:
        trainer.fit(Tiny(), loader(), loader())
    assert "Leave out num_nodes and devices" in caught.value.fix


class Manual(Tiny):
    """Steps its two optimizers by itself, and one of them behind Lightning's back."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        """Step twice for a batch."""
        loss = super().training_step(batch, batch_idx)
        first, second = self.optimizers()
        for optimizer in (first, second, second.optimizer):
            optimizer.zero_grad()
        self.manual_backward(loss)
        first.step()
        second.step()
        second.optimizer.step()

    def configure_optimizers(self):
        """Make two."""
        return [torch.optim.SGD(self.parameters(), 0.01) for _ in range(2)]


class Hidden(Manual):
    """Steps an optimizer that Lightning does not count at all."""

    def training_step(self, batch, batch_idx):
        """Leave Lightning's optimizers alone."""
        loss = Tiny.training_step(self, batch, batch_idx)
        self.manual_backward(loss)
        self.optimizers()[0].optimizer.step()


@pytest.mark.parametrize(
    ("words", "total"),
    [
        ({}, BATCHES * EPOCHS),
        ({"kind": Manual}, BATCHES * EPOCHS),
        ({"kind": Hidden}, BATCHES * EPOCHS),
        ({"accumulate_grad_batches": 2}, BATCHES * EPOCHS),
        ({"accumulate_grad_batches": 2, "max_epochs": -1, "max_steps": 4}, BATCHES + 2),
        ({"accumulate_grad_batches": 2, "max_epochs": 9, "max_steps": 3}, BATCHES),
        ({"limit_train_batches": 3}, 3 * EPOCHS),
        ({"kind": Manual, "max_epochs": -1, "max_steps": 8}, None),
        ({"callbacks": [GradientAccumulationScheduler({0: 1, 1: 2})]}, BATCHES * EPOCHS),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else None,
)
def test_steps_are_batches(worker, words, total):
    """``step`` and ``total_steps`` count one thing, before and after an interruption."""
    worker.fit(**words)
    progress = worker.run.read("progress")
    assert progress.get("total_steps") == total
    assert total is None or progress["step"] == total
    assert worker.fit(stop_at=1, **words) is None
    saved = newest(worker.run)
    assert saved.step == worker.run.read("progress")["checkpoint_step"] == 2
    assert worker.fit(resume_from=saved.path, **words)
    progress = worker.run.read("progress")
    assert progress["first_step"] == 2
    assert progress.get("total_steps") == total
    assert total is None or progress["step"] == total


def test_a_later_trainer_does_not_hide_what_was_reported(worker):
    """A Trainer that only evaluates leaves the metrics of the one that trained."""
    assert worker.fit()
    before = worker.run.read("progress")
    Trainer(**QUIET).validate(Tiny(), loader())
    after = worker.run.read("progress")
    assert equal(after, before)
    assert "loss" in after["metrics"]
