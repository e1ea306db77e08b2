"""A disk that refuses checkpoints, for a moment or for good."""

import errno
import resource
import threading

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny import BATCHES, LIMIT_SECONDS, Tiny, equal

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Saving
from getiaction_launch.worker import interruption
from getiaction_launch.worker.saving import background_io as checkpoint_io

DISK_FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch):
    """Refuse to write what the test names, so many times."""
    original, refusals = checkpoint_io.write, {}

    def write(snapshot, path, **words):
        for word in [word for word in refusals if word in path.name and refusals[word] > 0]:
            refusals[word] -= 1
            path.write_text("half")
            raise DISK_FULL
        original(snapshot, path, **words)

    monkeypatch.setattr(checkpoint_io, "write", write)
    monkeypatch.setattr(checkpoint_io, "RETRY_SECONDS", (0, 0))
    return refusals


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


def test_a_save_that_waits_for_one_that_fails_raises(worker, full_disk, tmp_path, monkeypatch):
    """Where the disk refuses late, the next save finds out while it waits, and saves nothing."""
    full_disk["epoch=1"] = 99
    is_awaited, wait = threading.Event(), checkpoint_io.BackgroundCheckpointIO.wait
    write = checkpoint_io.write

    def waiting(io):
        is_awaited.set()
        wait(io)

    def write_late(snapshot, path, **words):
        assert "epoch=1" not in path.name or is_awaited.wait(LIMIT_SECONDS)
        write(snapshot, path, **words)

    monkeypatch.setattr(checkpoint_io, "write", write_late)
    monkeypatch.setattr(checkpoint_io.BackgroundCheckpointIO, "wait", waiting)
    callback = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}")
    batches = []
    with pytest.raises(CheckError, match=r"epoch=1\.ckpt"):
        worker.fit(
            max_epochs=4, callbacks=[callback], enable_checkpointing=True, on_step=batches.append
        )
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == ["epoch=0.ckpt"]
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
    assert capfd.readouterr().err.count("; retrying in ") == 4
    assert worker.run.read("progress")["checkpoint_error"] is None


def test_a_run_that_cannot_save_fails_at_the_limit(worker, full_disk):
    """Training goes on without checkpoints until the limit, and then fails with the reason."""
    full_disk["fit_0_step"] = 999  # and not the end, without which the run fails at once
    undisturbed = worker.fit()
    assert equal(worker.fit(period=0), undisturbed)
    worker.saving = Saving(failure_limit_minutes=0)
    batches = []
    with pytest.raises(CheckError, match=r"no checkpoint could be saved .*No space left"):
        worker.fit(period=0, on_step=batches.append)
    assert 1 <= batches[-1] < BATCHES


def test_one_checkpoint_that_counts_forgives_those_that_do_not(worker, full_disk):
    """The limit is that of the time since the last one."""

    class Strict(Tiny):
        def on_train_batch_start(self, batch, batch_idx):
            del batch, batch_idx
            if self.global_step == 4:  # the third has been written
                for callback in self.trainer.callbacks:
                    if isinstance(callback, interruption.Interruption):
                        callback._saver._limit_seconds = 0

    full_disk["fit_0"] = 3  # all tries of the first
    assert worker.fit(period=0, kind=Strict)


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
