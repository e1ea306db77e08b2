"""What resuming relies on inside of Lightning: these fail first when Lightning changes."""

import contextlib

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from tiny import (
    BATCHES,
    EPOCHS,
    QUIET,
    Tiny,
    at,
    before_each_fetch,
    equal,
    fit,
    loader,
)
from torch.utils.data import DataLoader, IterableDataset

from getiaction_launch.worker.fitting import lightning_seams as seams
from getiaction_launch.worker.heart import heart
from getiaction_launch.worker.lightning_seams import is_between_steps


def test_is_tuning(tmp_path):
    """A Tuner's search calls ``fit`` with a callback that ends it; a finder of the user's not."""

    class Searching(Tiny):
        lr = 0.1

    seen = []

    class Noting(Callback):
        def setup(self, trainer, pl_module, stage):
            del pl_module, stage
            seen.append(seams.is_tuning(trainer))

    words = {**QUIET, "max_epochs": 1, "default_root_dir": tmp_path}
    trainer = Trainer(**words, callbacks=[Noting()])
    Tuner(trainer).lr_find(Searching(), loader(), loader(), num_training=2)
    assert seen[0]
    trainer = Trainer(**words, callbacks=[Noting(), LearningRateFinder(num_training_steps=2)])
    trainer.fit(Searching(), loader(), loader())
    assert not seen[-1]


@pytest.mark.parametrize(
    ("strategy", "starts"),
    [("ddp_spawn", True), ("ddp_fork", True), ("ddp_notebook", True), ("ddp", False)],
)
def test_starts_processes(strategy, starts):
    """Strategies that spawn or fork have a launcher of one class."""
    trainer = Trainer(**QUIET, strategy=strategy, devices=1)
    assert seams.starts_processes(trainer) is starts


def test_around_training():
    """What it calls runs after every set-up, and before the teardown of the strategy."""
    events = []

    def run(train):
        events.append("begin")
        train()
        events.append("end")

    trainer = Trainer(
        **QUIET,
        max_epochs=1,
        callbacks=[
            at("on_fit_start", lambda _: events.append("fit starts")),
            at("on_sanity_check_start", lambda _: events.append("sanity")),
            at("on_train_end", lambda _: events.append("train ends")),
            at("on_fit_end", lambda _: events.append("fit ends")),
        ],
    )
    with seams.around_training(trainer, run):
        trainer.fit(Tiny(), loader(), loader())
    assert events == ["fit starts", "begin", "sanity", "train ends", "end", "fit ends"]
    assert "_run_stage" not in vars(trainer)


def test_forget_restart(middle):
    """A Trainer whose training was left out trains on as one that has trained."""
    trainer = Trainer(**QUIET, max_epochs=EPOCHS)
    with seams.around_training(trainer, lambda _: None):
        trainer.fit(Tiny(), loader(), loader(), ckpt_path=middle)
    loop = trainer.fit_loop
    assert loop.restarting
    assert loop.epoch_loop.restarting
    seams.forget_restart(trainer)
    for each in (loop, loop.epoch_loop):
        assert not any((each.restarting, each.is_resuming))


def test_progress_within_an_epoch():
    """The loops' own counts, loaders and states are where the launcher reads them."""
    seen, data = [], loader()

    def note(trainer: Trainer) -> None:
        seen.append((trainer.current_epoch, seams.batches_of_epoch(trainer)))
        assert seams.training_loaders(trainer) == [data]
        assert seams.loader_states(trainer)[0]["seen"] == seen[-1][1]
        assert not seams.reads_ahead(trainer)
        assert not seams.takes_batches_itself(trainer)

    with before_each_fetch(note) as watch:
        fit(watch, data=data)
    assert seen == [(epoch, batch) for epoch in range(EPOCHS) for batch in range(BATCHES)]


def test_makes_iterator(middle):
    """An epoch has a new iterator, unless it is the first one or is resumed."""
    seen, undo = [], contextlib.ExitStack()
    data = loader()

    def watch(trainer: Trainer) -> None:
        def note() -> None:
            seen.append((seams.makes_iterator(trainer), data.seen))

        undo.enter_context(seams.watching_fetches(trainer, lambda: None, note))

    with undo:
        fit(at("on_train_start", watch), data=data, max_epochs=3)
    assert [is_made for is_made, _ in seen] == [False, True, True]
    seen.clear()
    with undo:
        fit(at("on_train_start", watch), data=data, max_epochs=3, ckpt_path=middle)
    assert [is_made for is_made, _ in seen] == [False, True]


class Asking(Tiny):
    """Asks for the number of steps before the checkpoint's loops are restored."""

    def configure_optimizers(self):
        """Ask for it."""
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


def test_load_left_states(middle):
    """A loader that ``configure_optimizers`` has had set up gets its state all the same."""
    first = []
    for act in (lambda _: None, seams.load_left_states):
        data, seen = loader(), []
        note = at("on_train_batch_start", lambda _, seen=seen, data=data: seen.append(data.seen))
        trainer = Trainer(**QUIET, max_epochs=EPOCHS, callbacks=[at("on_train_start", act), note])
        trainer.fit(Asking(), data, loader(), ckpt_path=middle)
        first.append(seen[0])
    assert first == [1, 3], "Lightning loads it itself now"


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self):
        return iter(torch.rand(8, 4))


def test_reading_ahead():
    """Without a length the loop reads one batch ahead, from the start of an epoch on."""
    seen = []

    def note(trainer: Trainer) -> None:
        assert seams.reads_ahead(trainer)
        batches = seams.batches_of_epoch(trainer)
        seen.append((seams.has_read_nothing(trainer), batches))

    with before_each_fetch(note) as watch:
        fit(watch, data=DataLoader(Stream(), batch_size=2))
    # The first epoch's first batch is read when its loader is set up.
    assert seen[:4] == [(False, 0), (False, 1), (False, 2), (False, 3)]
    assert [is_first for is_first, _ in seen[4:6]] == [True, False]


@pytest.mark.parametrize("data", [lambda: DataLoader(Stream(), batch_size=2), loader])
def test_take_batches(data):
    """Batches that are taken are not trained on, and count once."""
    seen = []
    take = at("on_train_start", lambda trainer: seams.take_batches(trainer, 2))
    note = at("on_train_batch_start", lambda trainer: seen.append(trainer.global_step))
    trainer, model = Trainer(**QUIET, max_epochs=1, callbacks=[take, note]), Tiny()
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 0.1)
    trainer.fit(model, data())
    assert len(seen) == len(list(data())) - 2


def test_takes_batches_itself():
    """``training_step`` with this parameter reads from the loader."""

    class Reading(Tiny):
        def training_step(self, dataloader_iter):
            assert seams.takes_batches_itself(self.trainer)
            batch, _, _ = next(dataloader_iter)
            return self.layer(batch).mean()

    trainer = Trainer(**QUIET, max_epochs=1)
    trainer.fit(Reading(), loader(), loader())
    assert trainer.global_step == BATCHES


def test_save_quietly(tmp_path):
    """The file is that of ``Trainer.save_checkpoint``, which is not called."""
    trainer = fit(max_epochs=1)
    trainer.save_checkpoint(tmp_path / "loud.ckpt")
    trainer.save_checkpoint = None
    seams.save_quietly(trainer, tmp_path / "quiet.ckpt", None)
    loud, quiet = (
        torch.load(tmp_path / name, weights_only=True) for name in ("loud.ckpt", "quiet.ckpt")
    )
    assert equal(loud["state_dict"], quiet["state_dict"])
    assert loud.keys() == quiet.keys()


@pytest.mark.parametrize("num_read", [None, 2])
def test_watching_steps(num_read):
    """It is called before each step, with or without ``dataloader_iter``, and never inside."""

    class Reading(Tiny):
        def training_step(self, dataloader_iter):
            events.append("step")
            batches = [next(dataloader_iter)[0] for _ in range(num_read)]
            return self.layer(batches[0]).mean()

    events, undo = [], contextlib.ExitStack()

    def watch(trainer: Trainer) -> None:
        def before() -> None:
            assert is_between_steps(trainer)
            events.append("before")

        step = seams.watching_steps(trainer, before, lambda: events.append("epoch"))
        undo.enter_context(step)

    def note(trainer: Trainer) -> None:
        read = num_read or 1
        begun = seams.batches_of_epoch(trainer)
        assert seams.batches_read(trainer) == read * begun

    model = Reading() if num_read else Tiny()
    model.on_step = lambda _: events.append("step")
    words = {"max_epochs": 1, "limit_val_batches": 0, "limit_train_batches": 4}
    callbacks = [at("on_train_start", watch), at("on_train_batch_end", note)]
    trainer = Trainer(**{**QUIET, **words}, callbacks=callbacks)
    with undo:
        model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 0.1)
        trainer.fit(model, loader())
    steps = ["before", "step"] * (4 // (num_read or 1))
    assert events == ["epoch", *steps]


def test_the_wait_for_rank_0_before_a_step_is_noted(monkeypatch):
    """Lightning broadcasts from it there, and the ranks that wait for it must not look slow."""
    phases, undo = [], contextlib.ExitStack()

    def note(*_: object, **__: object) -> None:
        phases.append(heart().now[0])

    def watch(trainer: Trainer) -> None:
        undo.enter_context(seams.watching_steps(trainer, lambda: None, lambda: None))
        monkeypatch.setattr(torch.distributed, "broadcast", note)
        monkeypatch.setattr(Trainer, "world_size", 2)

    words = {"max_epochs": 1, "limit_val_batches": 0, "limit_train_batches": 3}
    trainer = Trainer(**{**QUIET, **words}, callbacks=[at("on_train_start", watch)])
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    undo.callback(torch.distributed.destroy_process_group)
    model = Tiny()
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), 0.1)
    with undo:
        trainer.fit(model, loader())
    assert phases == ["waiting"] * 3
    assert heart().now[0] != "waiting"


def test_set_batches(middle):
    """The epoch in which a fit resumes ends as if so many of its batches were read; steps stay."""
    seen = []

    class Noting(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            del pl_module, batch
            seen.append((trainer.current_epoch, batch_idx, trainer.global_step))

    start = at("on_train_start", lambda trainer: seams.set_batches(trainer, BATCHES - 1))
    fit(start, Noting(), ckpt_path=middle, max_epochs=3)
    first = BATCHES + 2
    whole = [(2, number, first + 1 + number) for number in range(BATCHES)]
    assert seen == [(1, BATCHES - 1, first), *whole]


def test_count_batches():
    """A loop whose steps read by themselves counts what was read, not its steps."""
    seen = []

    class Reading(Tiny):
        def training_step(self, dataloader_iter):
            seen.append(dataloader_iter.fetched)
            return self.layer(next(dataloader_iter)[0]).mean()

    start = at("on_train_start", lambda trainer: seams.count_batches(trainer, 3))
    trainer = Trainer(**QUIET, max_epochs=1, callbacks=[start])
    trainer.fit(Reading(), loader(), loader())
    assert seen == [3, 4]
