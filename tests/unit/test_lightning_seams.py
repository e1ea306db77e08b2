"""What the launcher relies on inside of Lightning: these fail first when Lightning changes."""

import contextlib
import copy
import pickle

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.trainer.connectors import callback_connector
from lightning.pytorch.trainer.connectors.callback_connector import _CallbackConnector
from tiny import (
    BATCHES,
    ORIGINAL_FIT,
    QUIET,
    Tiny,
    at,
    before_each_fetch,
    fit,
    loader,
)

from getiaction_launch.worker import lightning_seams as seams


def test_watch_fits(monkeypatch, middle):
    """A fit takes what it resumes from as an argument, by this name, and each fit is numbered."""
    monkeypatch.setattr(Trainer, "fit", ORIGINAL_FIT)
    seams.watch_fits.cache_clear()
    seen, first_steps = [], []

    @contextlib.contextmanager
    def watch(trainer, number):
        seen.append((type(trainer), number))
        yield {"ckpt_path": middle, "weights_only": True} if number else {}
        seen.append("after")

    for _ in range(2):
        seams.watch_fits(watch)  # once and for all
    for _ in range(2):
        fit(at("on_train_start", lambda trainer: first_steps.append(trainer.global_step)))
    assert seen == [(Trainer, 0), "after", (Trainer, 1), "after"]
    assert first_steps == [0, BATCHES + 2]


def test_preparing_loaders():
    """Every loader of a fit passes through the strategy before it is read for the first time."""
    prepared, undo = [], contextlib.ExitStack()
    train = loader()

    def prepare(loader: object) -> None:
        assert train.seen == 0
        prepared.append(loader)

    def setup(trainer: Trainer, *_) -> None:
        undo.enter_context(seams.preparing_loaders(trainer.strategy, prepare))

    callback = Callback()
    callback.setup = lambda trainer, *_args, **_words: setup(trainer)
    with undo:
        trainer = fit(callback, data=train)
    assert any(loader is train for loader in prepared)
    assert len(prepared) == 2
    assert "process_dataloader" not in vars(trainer.strategy)


class Noting(Profiler):
    """A user's own profiler, which notes what it is called with."""

    def __init__(self) -> None:
        super().__init__(filename="own")
        self.calls = []

    def start(self, action_name):
        """Note it."""
        self.calls.append(("start", action_name))

    def stop(self, action_name):
        """Note it."""
        self.calls.append(("stop", action_name))

    def summary(self):
        """Return something that no other profiler does."""
        return "a summary"


def test_watching_fetches(tmp_path):
    """The function is called before each fetch, when the step before is over, validation too."""
    events, users = [], Noting()
    users.dirpath = tmp_path  # Lightning writes the summary there
    with before_each_fetch(lambda _: events.append("fetch")) as watch:
        trainer = fit(
            watch,
            at("on_train_batch_start", lambda _: events.append("start")),
            at("on_train_batch_end", lambda _: events.append("end")),
            at("on_validation_end", lambda _: events.append("validated")),
            profiler=users,
            num_sanity_val_steps=0,
            val_check_interval=2,
            max_epochs=1,
        )
    step = ["fetch", "start", "end"]
    # The last one of the loader finds out that the epoch is over.
    assert events[: 2 * len(step)] == [*step, *step]
    assert events.count("fetch") >= BATCHES
    for place in (place for place, event in enumerate(events) if event == "start"):
        assert "fetch" in events[:place]
        assert set(events[place + 1 : place + 2]) == {"end"}
    assert events.index("validated") < [i for i, e in enumerate(events) if e == "fetch"][2]
    assert trainer.profiler is users
    assert ("start", seams.FETCH) in users.calls


def test_fetch_watch_is_the_users_profiler():
    """Everything else that Lightning or the user asks of it is answered by the user's own."""
    users = Noting()
    watch = seams.FetchWatch(users, lambda: None)
    watch.setup("fit", 3, "/logs")
    with watch.profile("anything"):
        pass
    assert users.calls == [("start", "anything"), ("stop", "anything")]
    assert (watch.local_rank, watch.dirpath, watch.filename) == (3, "/logs", "own")
    assert (watch.summary(), watch.calls) == ("a summary", users.calls)
    public = {name for name in vars(Profiler) if not name.startswith("_")}
    assert public <= set(vars(seams.FetchWatch)), "the base would answer these"


def test_finish_restarting(middle):
    """After resuming in an epoch, Lightning steps its ReduceLROnPlateau only if it forgets that."""
    seen = {}
    for name, act in {"lightning": lambda _: None, "ours": seams.finish_restarting}.items():

        def note(trainer: Trainer, name=name) -> None:
            plateau = trainer.lr_scheduler_configs[0].scheduler
            seen[name] = plateau.last_epoch

        fit(at("on_train_batch_start", act), at("on_train_end", note), ckpt_path=middle)
    assert seen["ours"] == seen["lightning"] + 1


def test_restore_outcome():
    """Metrics that are put back are what callbacks read, and the request to stop is followed."""
    seen = {}

    def restore(trainer: Trainer) -> None:
        seams.restore_outcome(trainer, {"old": torch.tensor(3.0)}, should_stop=True)

    def note(trainer: Trainer) -> None:
        seen.update(trainer.callback_metrics)

    words = {"min_epochs": 1, "max_epochs": 4}
    trainer = fit(at("on_train_start", restore), at("on_train_batch_start", note), **words)
    assert seen["old"] == 3
    assert trainer.current_epoch == 1


def test_is_between_steps():
    """Only where no batch is being trained on and no gradients are gathered."""
    seen = []
    fit(
        at("on_train_batch_start", lambda trainer: seen.append(seams.is_between_steps(trainer))),
        max_epochs=1,
    )
    assert seen == [False] * BATCHES
    between = []
    with before_each_fetch(
        lambda trainer: between.append(seams.is_between_steps(trainer))
    ) as watch:
        fit(watch, accumulate_grad_batches=2, max_epochs=1)
    assert between[:4] == [True, False, True, False]


def test_fit_loop_state(middle):
    """The loaders' states lie there, one for each loader that has any."""
    state = seams.fit_loop_state(torch.load(middle, weights_only=True))
    assert state["combined_loader"] == [{"seen": 2, "rank": "0"}]


def test_replaced_methods_are_not_copied():
    """A copy or pickle of the object has its own method; so has the object afterwards."""
    callback = ModelCheckpoint()
    with seams.Replaced.replacing(callback, "file_exists", lambda *_: "replaced"):
        assert callback.file_exists("path", None) == "replaced"
        for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):  # noqa: S301
            assert copied.file_exists == ModelCheckpoint.file_exists.__get__(copied)
    assert "file_exists" not in vars(callback)


def test_fit_arguments(monkeypatch):
    """While a fit runs, its arguments are known by Lightning's names."""
    monkeypatch.setattr(Trainer, "fit", ORIGINAL_FIT)
    seams.watch_fits.cache_clear()
    seen = []

    @contextlib.contextmanager
    def watch(*_):
        seen.append(dict(seams.fit_arguments()))
        yield {}

    seams.watch_fits(watch)
    data = loader()
    fit(data=data, max_epochs=1)
    assert seen[0]["train_dataloaders"] is data
    assert isinstance(seen[0]["model"], Tiny)
    assert seams.fit_arguments() == {}


def test_keep_out_of_shared_lists(monkeypatch):
    """Lightning extends a list that it is given in one method, which gets it by position."""

    class Ours(Callback):
        pass

    monkeypatch.setattr(_CallbackConnector, "on_trainer_init", _CallbackConnector.on_trainer_init)
    seams.keep_out_of_shared_lists.__wrapped__(Ours)
    monkeypatch.setattr(
        callback_connector, "_load_external_callbacks", lambda _: [Ours(), ModelCheckpoint()]
    )
    given = [Ours(), Callback()]
    trainer = Trainer(**QUIET, callbacks=given)
    assert [type(each) for each in trainer.callbacks] == [Callback, Ours, ModelCheckpoint]
    assert [type(each) for each in given] == [Ours, Callback, ModelCheckpoint]
    single = Callback()
    assert single in Trainer(**QUIET, callbacks=single).callbacks
