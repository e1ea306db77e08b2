"""Checkpoints are written in the background as if each had been written at once."""

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest
import test_interruption
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from test_interruption import BATCHES, LIMIT_SECONDS, Tiny, equal

from getiaction_launch import checkpoint_io, interruption, saver
from getiaction_launch.checkpoint import commit, newest
from getiaction_launch.checkpoint_io import BackgroundCheckpointIO
from getiaction_launch.errors import CheckError
from getiaction_launch.progress import ProgressReport
from getiaction_launch.run import Run

worker = test_interruption.worker
DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


class SlowDisk:
    """Finishes a write only when whoever asked for it has gone on, and remembers what it wrote."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_moved = threading.Event()
        self.is_writing = threading.Event()
        self.is_awaited = False
        self.written: list[tuple[str, dict]] = []
        original, wait = checkpoint_io.write, BackgroundCheckpointIO.wait

        def write(snapshot, path):
            self.is_writing.set()
            assert self.has_moved.wait(LIMIT_SECONDS), "training waits for the disk"
            if not self.is_awaited:
                self.has_moved.clear()
            links = [link for link in path.parent.iterdir() if link.is_symlink()]
            assert all(link.exists() for link in links), "a link leads nowhere"
            original(snapshot, path)
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


@pytest.fixture
def background(tmp_path: Path):
    """One that nobody has asked for anything yet."""
    run = Run(tmp_path / "act" / "version_0")
    run.launch_directory.mkdir(parents=True)
    resumed_from = run.directory / "last.ckpt"
    io = BackgroundCheckpointIO(
        TorchCheckpointIO(), ProgressReport(run), run, lambda _: True, resumed_from
    )
    yield io
    io.close()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch):
    """Refuse to write what the test names, so many times."""
    original, refusals = checkpoint_io.write, {}

    def write(snapshot, path):
        for word in [word for word in refusals if word in path.name and refusals[word] > 0]:
            refusals[word] -= 1
            path.write_text("half")
            raise DISK_FULL
        original(snapshot, path)

    monkeypatch.setattr(checkpoint_io, "write", write)
    monkeypatch.setattr(checkpoint_io, "RETRY_SECONDS", (0, 0))
    return refusals


def test_training_goes_on_while_a_checkpoint_is_written(worker, slow_disk, monkeypatch):
    """The disk blocks for five steps; then the file has the weights of the snapshot's step."""
    monkeypatch.setenv("GETIACTION_LAUNCH_CHECKPOINT_WHEN_BUSY", "skip")
    undisturbed = worker.fit()
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

    monkeypatch.setattr(test_interruption, "Tiny", Noting)
    assert equal(worker.fit(period=0, on_step=on_step), undisturbed)

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
    monkeypatch.setattr("getiaction_launch.agreement.AGREEMENT_SECONDS", 3600)
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

    threads = [threading.Thread(target=tell, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    assert not refused
    told = background._run.read("progress")
    assert (told["a"], told["b"]) == (199, 199)


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

    worker.monkeypatch.setattr(test_interruption, "Tiny", Saving)
    worker.monkeypatch.setattr(
        checkpoint_io, "write", lambda snapshot, path: torch.save(snapshot.content(), path)
    )
    assert worker.fit()
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


def test_a_users_checkpoint_that_cannot_be_written_ends_the_fit(worker, full_disk, tmp_path):
    """It is told at once and raised at the next save; the old file stays where it was."""
    full_disk["epoch=1"] = 99
    callback = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}")
    batches = []
    with pytest.raises(CheckError, match=r"epoch=1\.ckpt.*No space left on device") as raised:
        worker.fit(
            max_epochs=4, callbacks=[callback], enable_checkpointing=True, on_step=batches.append
        )
    assert isinstance(raised.value.__cause__, OSError)
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["epoch=0.ckpt"]
    assert full_disk["epoch=1"] == 96
    assert "No space left" in worker.run.read("progress")["checkpoint_error"]
    assert batches[-1] == 3 * BATCHES - 1


def test_the_last_checkpoint_of_a_user_is_not_missing_silently(worker, full_disk, tmp_path):
    """Where no save comes after the one that failed, the end of the fit raises."""
    full_disk["epoch=1"] = 99
    callback = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}")
    with pytest.raises(CheckError, match=r"epoch=1\.ckpt"):
        worker.fit(max_epochs=2, callbacks=[callback], enable_checkpointing=True)


def test_a_disk_that_is_full_for_a_moment_costs_nothing(worker, full_disk, tmp_path, capfd):
    """A refused write is tried again, and told of."""
    full_disk["epoch=1"] = full_disk["fit_0_step_3"] = 2
    callback = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    assert worker.fit(period=0, callbacks=[callback], enable_checkpointing=True)
    names = {path.name for path in tmp_path.glob("*") if path.is_file()}
    assert names == {"epoch=0.ckpt", "epoch=1.ckpt"}
    assert capfd.readouterr().err.count("trying again") == 4
    assert worker.run.read("progress")["checkpoint_error"] is None


def test_a_run_that_cannot_save_fails_at_the_limit(worker, full_disk, monkeypatch):
    """Training goes on without checkpoints until the limit, and then fails with the reason."""
    full_disk["fit_0"] = 999
    undisturbed = worker.fit()
    assert equal(worker.fit(period=0), undisturbed)
    monkeypatch.setenv("GETIACTION_LAUNCH_CHECKPOINT_FAILURE_LIMIT_SECONDS", "0")
    batches = []
    with pytest.raises(CheckError, match=r"no checkpoint could be saved .*No space left"):
        worker.fit(period=0, on_step=batches.append)
    assert 1 <= batches[-1] < BATCHES


def test_one_checkpoint_that_counts_forgives_those_that_do_not(worker, full_disk, monkeypatch):
    """The limit is that of the time since the last one."""

    class Strict(Tiny):
        def on_train_batch_start(self, batch, batch_idx):
            del batch, batch_idx
            if self.global_step == 4:  # the third has been written
                for callback in self.trainer.callbacks:
                    if isinstance(callback, interruption.Interruption):
                        callback._saver._limit_seconds = 0

    full_disk["fit_0"] = 3  # all tries of the first
    monkeypatch.setattr(test_interruption, "Tiny", Strict)
    assert worker.fit(period=0)


def test_a_disk_that_fills_up_in_the_middle_of_a_write_is_named(background, monkeypatch):
    """Not torch's error of a position that it did not expect; no half file takes up the room."""
    monkeypatch.setattr(checkpoint_io, "RETRY_SECONDS", ())
    target = background._run.directory / "checkpoints" / "best.ckpt"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        background.save_checkpoint({"weight": torch.zeros(1_000_000)}, target)
        background.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(CheckError, match=r"OSError.*File too large"):
        background.raise_failure()
    assert not list(target.parent.iterdir())


def test_nothing_is_removed_after_a_write_that_failed(background, full_disk, tmp_path):
    """What was to be replaced is the best that there is."""
    full_disk["new"] = 9
    old = tmp_path / "old.ckpt"
    old.write_text("old")
    background.save_checkpoint({}, tmp_path / "new.ckpt")
    background.remove_checkpoint(old)
    background.link(tmp_path / "new.ckpt", tmp_path / "link.ckpt")
    background.wait()
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["old.ckpt"]


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

    worker.monkeypatch.setattr(test_interruption, "Tiny", Failing)
    with pytest.raises(ZeroDivisionError):
        worker.fit(period=0)
    assert type(seen[0].checkpoint_io) is TorchCheckpointIO
    assert newest(worker.run).step == BATCHES - 1


DYING = """
import itertools, os, signal, sys
from pathlib import Path
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from getiaction_launch.checkpoint import commit, partial_path
from getiaction_launch.checkpoint_io import BackgroundCheckpointIO
from getiaction_launch.progress import ProgressReport
from getiaction_launch.run import Run

real_save = torch.save
EVENTS = ("open", "os.rename", "os.remove", "os.listdir", "os.scandir", "os.mkdir")
torch.set_num_threads(1)

def save(run, told, kill_at):
    touches = itertools.count(1)

    def touch():
        if next(touches) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def strike(event, arguments):
        if event in EVENTS and str(run.directory) in str(arguments[0]):
            touch()

    class Watched:
        def __init__(self, file):
            self.file, self.flush = file, file.flush

        def write(self, content):
            touch()
            return self.file.write(content)

    io = BackgroundCheckpointIO(TorchCheckpointIO(), ProgressReport(run), run, lambda _: True)
    weight = torch.zeros(50_000)
    # The first is saved in peace.
    for step in range(1, 4):
        weight.fill_(step)

        def finish(step=step):
            commit(run, attempt=0, fit=0, step=step, epoch=0, reason="period", saved_at=step)
            os.write(told, b"%d" % step)

        io.save_later({"weight": weight, "step": step}, partial_path(run, 0, step), finish, print)
        io.save_checkpoint({"weight": weight, "step": step}, run.directory / "last.ckpt")
        if step == 1:
            io.wait()
            sys.addaudithook(strike)
            torch.save = lambda content, file: real_save(content, Watched(file))
    io.close()

for number in range(1, int(sys.argv[2]), 3):
    run = Run(Path(sys.argv[1], str(number)))
    run.launch_directory.mkdir(parents=True)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        save(run, write, number)
        os._exit(0)
    os.close(write)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    print(number, code, os.read(read, 100).decode()[-1], flush=True)
    if not code:
        break
"""


def test_a_kill_at_whichever_touch_of_the_disk_tears_nothing(tmp_path):
    """SIGKILL before every third opening, writing, renaming and removing of a file, one per run.

    Each time the newest checkpoint is whole and at least as new as the last that was told to be
    committed, and ``last.ckpt`` is an old one or a new one.
    """
    words = [sys.executable, "-c", DYING, str(tmp_path), "300"]
    ends = subprocess.run(words, check=True, capture_output=True, text=True, timeout=200).stdout
    killed = 0
    for number, code, committed in re.findall(r"(\d+) (-?\d+) (\d)", ends):
        run = Run(tmp_path / number)
        saved = newest(run)
        content = torch.load(saved.path, weights_only=True)
        assert content["step"] == saved.step >= int(committed), number
        last = torch.load(run.directory / "last.ckpt", weights_only=True)
        for whole in (content, last):
            assert torch.equal(whole["weight"], torch.full((50_000,), float(whole["step"])))
        assert int(code) == -signal.SIGKILL or (int(code), saved.step) == (0, 3)
        killed += int(code) == -signal.SIGKILL
    assert 20 < killed < 99
