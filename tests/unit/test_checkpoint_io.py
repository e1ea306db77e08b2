"""Checkpoints are written in the background as if each had been written at once."""

import os
import signal
import threading
import weakref
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from tiny import BATCHES, LIMIT_SECONDS, Tiny, equal

from getiaction_launch.plan.plan import Saving
from getiaction_launch.run.checkpoint import commit, newest
from getiaction_launch.run.run import Run
from getiaction_launch.worker import interruption
from getiaction_launch.worker.saving import background_io as checkpoint_io
from getiaction_launch.worker.saving import saver
from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO


class SlowDisk:
    """Finishes a write only when whoever asked for it has gone on, and remembers what it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_moved = threading.Event()
        self.is_writing = threading.Event()
        self.is_awaited = False
        self.written: list[tuple[str, dict]] = []
        original, wait = checkpoint_io.write, BackgroundCheckpointIO.wait

        def write(snapshot, path, **words):
            self.is_writing.set()
            assert self.has_moved.wait(LIMIT_SECONDS), "training waits for the disk"
            if not self.is_awaited:
                self.has_moved.clear()
            links = [link for link in path.parent.iterdir() if link.is_symlink()]
            assert all(link.exists() for link in links), "a link leads nowhere"
            original(snapshot, path, **words)
            self.written.append((path.name, torch.load(path, weights_only=True)))

        def move_and_wait(io):
            self.is_awaited = True
            self.has_moved.set()
            wait(io)
            self.is_awaited = False
            self.has_moved.clear()

        monkeypatch.setattr(checkpoint_io, "write", write)
        monkeypatch.setattr(BackgroundCheckpointIO, "wait", move_and_wait)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    """As it says."""
    return SlowDisk(monkeypatch)


def test_training_goes_on_while_a_checkpoint_is_written(worker, slow_disk):
    """The disk blocks for five steps; then the file has the weights of the snapshot's step."""
    worker.saving = Saving(when_busy="skip")
    undisturbed = worker.fit()
    slow_disk.written.clear()  # the end, which is kept
    slow_disk.is_writing.clear()
    weights, told = {}, []

    class Noting(Tiny):
        def on_train_batch_start(self, batch, batch_idx):
            del batch, batch_idx
            weights[self.global_step] = {k: v.clone() for k, v in self.state_dict().items()}

    def on_step(batch: int) -> None:
        if batch == 1:
            assert slow_disk.is_writing.wait(LIMIT_SECONDS)
        if batch == 6:
            told.append(worker.run.read("progress"))
            assert not slow_disk.written
            slow_disk.has_moved.set()

    assert equal(worker.fit(period=0, on_step=on_step, kind=Noting), undisturbed)

    (name, first), *_ = slow_disk.written
    assert (name, first["global_step"]) == ("fit_0_step_1.partial", 1)
    assert equal(first["state_dict"], weights[1])
    assert not equal(weights[1], weights[6])
    assert (told[0]["phase"], told[0]["is_writing_checkpoint"]) == ("training", True)
    assert worker.run.read("progress")["is_writing_checkpoint"] is False
    # Each was put off until the one before it was written.
    steps = [content["global_step"] for _, content in slow_disk.written]
    assert steps == sorted(set(steps))
    assert not set(steps) & set(range(2, 7))


def test_a_request_to_stop_waits_for_the_write_in_flight_and_its_own(worker, slow_disk):
    """SIGTERM in the middle of a background write: that counts, and then the agreed step does."""
    seen, phases = [], []

    def on_step(batch: int) -> None:
        if batch == 1:
            assert slow_disk.is_writing.wait(LIMIT_SECONDS)
            os.kill(os.getpid(), signal.SIGTERM)
            seen.append(newest(worker.run))

    def committing(*args, **words):
        phases.append(worker.run.read("progress")["phase"])
        return commit(*args, **words)

    worker.monkeypatch.setattr(saver, "commit", committing)
    assert worker.fit(period=0, on_step=on_step) is None
    assert seen == [None]
    assert phases[-1] == "saving"
    saved = newest(worker.run)
    assert (saved.step, saved.reason) == (2, "interruption")
    kept = sorted(path.name for path in saved.path.parent.iterdir())
    assert kept == [f"fit_0_step_{n}.{kind}" for n in (1, 2) for kind in ("ckpt", "json")]
    assert worker.run.read("progress")["is_writing_checkpoint"] is False


def test_every_epoch_ends_with_a_checkpoint_unless_epochs_are_short(worker, monkeypatch):
    """One is taken between two epochs once a tenth of the period is over, and not before."""
    saved = []
    monkeypatch.setattr(
        interruption.CheckpointSaver, "save", lambda *words: saved.append(words[1].global_step)
    )
    worker.fit(period=3600, max_epochs=3)
    assert saved == []
    monkeypatch.setattr(interruption, "EPOCH_SHARE", 0)
    monkeypatch.setattr(interruption, "AGREEMENT_SECONDS", 3600)
    worker.fit(period=3600, max_epochs=3)
    assert saved == [BATCHES, 2 * BATCHES]


def test_sixteen_saves_on_a_slow_disk_keep_one_state_in_memory(
    background, slow_disk, tmp_path, monkeypatch
):
    """The next save waits for the one in flight; neither snapshots nor buffers pile up."""
    live, most = weakref.WeakSet(), []
    take = checkpoint_io.SnapshotMemory.take

    def taking(memory, *words):
        snapshot = take(memory, *words)
        live.add(snapshot)
        most.append((len(live), memory.size_bytes))
        return snapshot

    monkeypatch.setattr(checkpoint_io.SnapshotMemory, "take", taking)
    weight = torch.zeros(100_000)
    for step in range(16):
        weight += 1
        background.save_checkpoint({"weight": weight}, tmp_path / f"{step}.ckpt")
    background.wait()
    assert len(slow_disk.written) == 16
    assert set(most) == {(1, weight.nbytes)}
    for step in range(16):
        assert torch.load(tmp_path / f"{step}.ckpt")["weight"][0] == step + 1


def test_saves_of_one_state_share_its_memory_and_do_not_wait(background, slow_disk, tmp_path):
    """``last.ckpt`` after the best one is another file of the same state, not another stall."""
    state = {"weight": torch.zeros(100_000)}
    for name in ("best", "last"):
        background.save_checkpoint({**state, "name": name}, tmp_path / name)
    assert not slow_disk.written
    assert background._memory.size_bytes == state["weight"].nbytes
    background.wait()
    assert [torch.load(tmp_path / name)["name"] for name in ("best", "last")] == ["best", "last"]


def test_saves_of_one_state_do_not_pile_up(background, slow_disk, tmp_path, monkeypatch):
    """What never changes is saved no faster than the disk can."""
    pending = []
    submit = background._submit
    monkeypatch.setattr(
        background, "_submit", lambda act: pending.append(background._num_saves) or submit(act)
    )
    frozen = torch.ones(100_000)
    for step in range(10):
        background.save_checkpoint({"frozen": frozen}, tmp_path / f"{step}")
    background.wait()
    assert len(slow_disk.written) == 10
    assert max(pending) == 4


def test_what_does_not_lie_in_a_file_system_is_saved_as_ever(background, slow_disk, tmp_path):
    """A URL of the user's own is Lightning's to write and to remove, in its turn."""
    background.save_checkpoint({"step": 1}, tmp_path / "local.ckpt")
    background.save_checkpoint({"step": 2}, "memory://bucket/a.ckpt")
    assert slow_disk.written
    assert background.load_checkpoint("memory://bucket/a.ckpt")["step"] == 2
    background.remove_checkpoint("memory://bucket/a.ckpt")
    with pytest.raises(FileNotFoundError):
        background.load_checkpoint("memory://bucket/a.ckpt")


def test_what_is_being_written_can_be_loaded(background, slow_disk, tmp_path):
    """Whoever reads a checkpoint waits for it."""
    background.save_checkpoint({"step": 3}, tmp_path / "a.ckpt")
    assert not slow_disk.written
    assert background.load_checkpoint(tmp_path / "a.ckpt")["step"] == 3


def test_progress_is_told_by_two_threads_at_once(background, monkeypatch):
    """The training's thread and the one that writes never get in each other's way."""
    progress, refused = background._progress, []
    write = Run.write

    def writing(*args, **words):
        try:
            write(*args, **words)
        except OSError as error:
            refused.append(error)

    monkeypatch.setattr(Run, "write", writing)

    def tell(name: str) -> None:
        for number in range(200):
            progress.update(**{name: number})

    threads = [threading.Thread(target=tell, args=(name,)) for name in ("step", "epoch")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    assert not refused
    told = background._run.read("progress")
    assert (told["step"], told["epoch"]) == (199, 199)


KEEPING = {
    "one": {},
    "best two": {"monitor": "val", "save_top_k": 2},
    "all of one name": {"monitor": "val", "save_top_k": -1, "filename": "best"},
    "best of one name": {"monitor": "val", "save_top_k": 2, "filename": "best", "mode": "max"},
    "last": {"monitor": "val", "save_last": True},
    "link": {"save_last": "link"},
    "link to the best": {"monitor": "val", "save_last": "link", "save_top_k": 2},
    "steps": {"every_n_train_steps": 2, "save_top_k": 1, "save_last": True},
    "weights": {"save_weights_only": True, "every_n_epochs": 2},
}


@pytest.mark.parametrize("words", KEEPING.values(), ids=KEEPING)
def test_model_checkpoint_keeps_what_it_would_keep(worker, slow_disk, monkeypatch, tmp_path, words):
    """Same files, same content, same best ones as Lightning's own; one file less never."""
    kept = {}
    remove = checkpoint_io.remove

    def removing(path: Path) -> None:
        others = [other for other in path.parent.glob("*.ckpt") if other.resolve() != path]
        assert any(other.exists() for other in others), "the new one is not there yet"
        remove(path)

    monkeypatch.setattr(checkpoint_io, "remove", removing)
    for name in ("lightning", "background"):
        own_id = os.getpid() if name == "background" else 0
        monkeypatch.setenv("GETIACTION_LAUNCH_WORKER", str(own_id))
        callback = ModelCheckpoint(dirpath=tmp_path / name, **words)
        worker.fit(
            max_epochs=4,
            callbacks=[callback],
            enable_checkpointing=True,
            on_step=lambda _: slow_disk.has_moved.set(),
        )
        assert Path(callback.best_model_path).is_file()
        kept[name] = {
            "files": {
                path.name: (path.is_symlink() and str(path.readlink()), torch.load(path))
                for path in sorted((tmp_path / name).iterdir())
            },
            "best": Path(callback.best_model_path).name,
            "last": Path(callback.last_model_path).name,
            "top": {Path(path).name: score for path, score in callback.best_k_models.items()},
        }
    assert slow_disk.written
    assert not [key for key in vars(callback) if key in ("file_exists", "_link_checkpoint")]
    ours, lightnings = kept["background"], kept["lightning"]
    assert ours.keys() == lightnings.keys()
    for name, (link, content) in lightnings["files"].items():
        our_link, our_content = ours["files"][name]
        assert our_link == link
        assert our_content["global_step"] == content["global_step"]
        assert equal(our_content["state_dict"], content["state_dict"])
    assert ours["files"].keys() == lightnings["files"].keys()
    assert (ours["best"], ours["last"], ours["top"]) == (
        lightnings["best"],
        lightnings["last"],
        lightnings["top"],
    )


def test_what_the_user_saves_is_there_at_once(worker, slow_disk, tmp_path):
    """``trainer.save_checkpoint`` in the user's own code returns when the file can be read."""
    path = tmp_path / "own.ckpt"
    read = []

    class Saving(Tiny):
        def on_train_epoch_end(self):
            self.trainer.save_checkpoint(path)
            read.append(torch.load(path)["global_step"])

    worker.monkeypatch.setattr(
        checkpoint_io, "write", lambda snapshot, path, **_: torch.save(snapshot.content(), path)
    )
    assert worker.fit(kind=Saving)
    assert read == [BATCHES, 2 * BATCHES]
    del slow_disk


@pytest.mark.parametrize(("log_model", "is_awaited"), [("all", True), (False, False)])
def test_a_logger_that_reads_checkpoints_finds_them(
    worker, slow_disk, tmp_path, log_model, is_awaited
):
    """One that uploads every checkpoint as it is saved is told of it when it is there."""
    seen = []

    class Uploading(CSVLogger):
        _log_model = log_model

        def after_save_checkpoint(self, checkpoint_callback):
            seen.append(Path(checkpoint_callback.best_model_path).exists())

    def on_step(batch: int) -> None:
        if batch % BATCHES == BATCHES - 1:
            slow_disk.has_moved.set() if is_awaited else slow_disk.has_moved.clear()

    if is_awaited:
        worker.monkeypatch.setattr(slow_disk.has_moved, "wait", lambda _: True)
    words = {"logger": Uploading(tmp_path), "enable_checkpointing": True}
    assert worker.fit(on_step=on_step, **words)
    assert seen == [is_awaited] * 2


def test_the_default_logger_does_not_make_training_wait(worker, slow_disk, tmp_path):
    """TensorBoard's has a method for saved checkpoints that does nothing."""
    seen = []

    def on_step(batch: int) -> None:
        if batch == BATCHES:
            seen.append(list(tmp_path.glob("*.ckpt")))
        slow_disk.has_moved.set() if batch > BATCHES else slow_disk.has_moved.clear()

    callback = ModelCheckpoint(dirpath=tmp_path)
    words = {"logger": TensorBoardLogger(tmp_path / "log"), "enable_checkpointing": True}
    assert worker.fit(on_step=on_step, callbacks=[callback], **words)
    assert seen == [[]]
    assert Path(callback.best_model_path).exists()


def test_what_a_run_resumed_from_stays(background, tmp_path):
    """Also under another name; anything else that is to go goes, if it is there."""
    epoch = background._run.directory / "epoch=1.ckpt"
    epoch.write_text("weights")
    (background._run.directory / "last.ckpt").symlink_to(epoch.name)
    io = BackgroundCheckpointIO(
        background._base,
        background._progress,
        background._run,
        background._can_wait,
        background._run.directory / "last.ckpt",
    )
    other = tmp_path / "other.ckpt"
    other.write_text("weights")
    for path in (epoch, other, tmp_path / "never.ckpt"):
        io.remove_checkpoint(path)
    io.close()
    assert epoch.exists()
    assert not other.exists()
    io.raise_failure()


def test_a_directory_gives_way_to_a_link(background, tmp_path):
    """As with Lightning: what a sharded run before this one has left under the link's name goes."""
    (tmp_path / "last.ckpt").mkdir()
    background.save_checkpoint({"step": 1}, tmp_path / "a.ckpt")
    for _ in range(2):
        background.link(tmp_path / "a.ckpt", tmp_path / "last.ckpt")
        assert background.exists(tmp_path / "last.ckpt")
    background.wait()
    assert (tmp_path / "last.ckpt").readlink() == Path("a.ckpt")
    assert background.load_checkpoint(tmp_path / "last.ckpt")["step"] == 1


def test_what_killed_writes_left_is_removed_in_the_runs_own_directory(background, tmp_path):
    """Elsewhere it may be another run's, which is alive."""
    own, foreign = background._run.directory / "checkpoints", tmp_path / "shared"
    for directory in (own, foreign):
        directory.mkdir()
        (directory / ".old.ckpt.partial").write_text("half")
        background.save_checkpoint({}, directory / "new.ckpt")
    background.wait()
    assert [path.name for path in own.iterdir()] == ["new.ckpt"]
    assert {path.name for path in foreign.iterdir()} == {".old.ckpt.partial", "new.ckpt"}


def test_the_users_trainer_gets_its_own_way_of_saving_back(worker):
    """After the fit, and also after one that failed, ``strategy.checkpoint_io`` is Lightning's."""
    seen = []

    class Failing(Tiny):
        def on_train_start(self):
            seen.append(self.trainer.strategy)
            assert isinstance(self.trainer.strategy.checkpoint_io, BackgroundCheckpointIO)

        def on_train_epoch_end(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        worker.fit(period=0, kind=Failing)
    assert type(seen[0].checkpoint_io) is TorchCheckpointIO
    assert newest(worker.run).step == BATCHES - 1
