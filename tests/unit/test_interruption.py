"""Training that is interrupted and taken up again is the training that it would have been."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from lightning.pytorch.strategies import SingleDeviceStrategy
from tiny import BATCHES, EPOCHS, QUIET, Tiny, equal, loader
from torch.utils.data import DataLoader, DistributedSampler

from getiaction_launch.run.checkpoint import newest
from getiaction_launch.storage.paths import write_json
from getiaction_launch.worker import interruption
from getiaction_launch.worker.entry_point import callbacks
from getiaction_launch.worker.saving import saver


@pytest.mark.parametrize(
    "trainer_words",
    [
        {},
        {"val_check_interval": 2},
        {"accumulate_grad_batches": 2},
        {"limit_train_batches": 1, "max_epochs": 5},
        {
            "max_epochs": -1,
            "max_steps": 9,
            "check_val_every_n_epoch": None,
            "val_check_interval": 3,
        },
    ],
    ids=str,
)
def test_whichever_batch_it_is_interrupted_at_it_ends_the_same(worker, trainer_words):
    """Weights, optimizer and learning rate are bit for bit those of undisturbed training."""
    undisturbed = worker.fit(**trainer_words)
    steps = []
    for batch in range(BATCHES * EPOCHS):
        result = worker.fit(stop_at=batch, **trainer_words)
        if result is None:
            saved = newest(worker.run)
            steps.append(saved.step)
            result = worker.fit(resume_from=saved.path, **trainer_words)
        assert equal(result, undisturbed), batch
        for path in (worker.run.launch_directory / "checkpoints").glob("*"):
            path.unlink()
    assert len(steps) >= 4


def test_a_periodic_save_disturbs_nothing_and_two_stay(worker):
    """Training with a checkpoint before every batch ends as without; the last two are kept."""
    undisturbed = worker.fit()
    assert newest(worker.run) is None

    assert equal(worker.fit(period=0), undisturbed)

    names = sorted(p.name for p in (worker.run.launch_directory / "checkpoints").iterdir())
    assert names == [f"fit_0_step_{n}.{kind}" for n in (8, 9) for kind in ("ckpt", "json")]
    assert (newest(worker.run).reason, newest(worker.run).epoch) == ("period", 1)
    progress = worker.run.read("progress")
    assert (progress["phase"], progress["checkpoint_step"]) == ("finished", 9)


def test_the_fit_that_was_interrupted_resumes_and_not_the_one_before(worker):
    """A script that fits twice does its first fit again; its own ckpt_path loses in the second."""

    def script(stop_at=None):
        first = worker.fit_again()
        ckpt_path = worker.run.directory / "users_own.ckpt"
        trainer = Trainer(**QUIET, max_epochs=1)
        trainer.strategy.connect(Tiny())
        trainer.save_checkpoint(ckpt_path)
        return first, worker.fit_again(stop_at=stop_at, ckpt_path=ckpt_path)

    worker.start()
    undisturbed = script()
    worker.start()
    assert script(stop_at=6)[1] is None
    saved = newest(worker.run)
    assert (saved.fit, saved.step) == (1, 7)
    users_own = torch.load(worker.run.directory / "users_own.ckpt", weights_only=True)
    assert "getiaction_launch" not in users_own  # it may have been saved on one rank alone

    worker.start(resume_from=saved.path, period=0)
    seen = []
    worker.monkeypatch.setattr(saver, "commit", lambda *_args, **words: seen.append(words))
    assert equal(dict(enumerate(script())), dict(enumerate(undisturbed)))
    assert [(words["fit"], words["step"]) for words in seen] == [(1, 8), (1, 9)]


def test_what_cannot_be_saved_is_told_and_training_goes_on(worker, capfd):
    """A full or broken disk costs the checkpoint, not the training; a request still ends it."""
    undisturbed = worker.fit()
    directory = worker.run.launch_directory / "checkpoints"
    directory.write_text("no directory")

    assert equal(worker.fit(period=0), undisturbed)

    assert "step 9 could not be saved: " in capfd.readouterr().err
    progress = worker.run.read("progress")
    assert "checkpoints" in progress["checkpoint_error"]
    assert worker.fit(stop_at=3) is None
    assert worker.run.read("progress")["phase"] == "interrupted"

    directory.unlink()
    (directory / "fit_0_step_4.json").mkdir(parents=True)  # in the marker's place
    assert worker.fit(stop_at=3) is None
    assert newest(worker.run) is None
    assert "fit_0_step_4.json" in worker.run.read("progress")["checkpoint_error"]


def test_a_loader_without_state_is_told_of(worker, capfd):
    """Whoever resumes an epoch whose data cannot go on hears it once, and no one else does."""
    data = torch.rand(10, 4)
    assert worker.fit(stop_at=2, data=DataLoader(data, batch_size=2)) is None
    assert worker.fit(resume_from=newest(worker.run).path, data=DataLoader(data, batch_size=2))
    said = capfd.readouterr().err
    assert (
        said.count("resuming in the middle of an epoch, but the data loader has no state_dict()")
        == 1
    )

    assert worker.fit(stop_at=2) is None
    assert worker.fit(resume_from=newest(worker.run).path)
    assert "the data loader has no state_dict()" not in capfd.readouterr().err


def test_another_number_of_ranks_is_told_of(worker, capfd):
    """A checkpoint of two ranks resumes on one, which is said."""
    assert worker.fit(stop_at=2) is None
    saved = newest(worker.run)
    content = torch.load(saved.path, weights_only=True)
    content["getiaction_launch"]["ranks"] *= 2
    torch.save(content, saved.path)
    marker = {**vars(saved), "size_bytes": saved.path.stat().st_size}
    del marker["path"]
    write_json(saved.path.with_suffix(".json"), marker)

    assert worker.fit(resume_from=saved.path)

    assert "was saved by 2 ranks, and training resumes with 1:" in capfd.readouterr().err


def test_a_checkpoint_that_is_written_in_the_background_is_whole(worker):
    """Under AsyncCheckpointIO too, nothing counts before it has been written."""
    undisturbed = worker.fit()
    assert worker.fit(stop_at=2, plugins=[AsyncCheckpointIO()]) is None
    saved = newest(worker.run)
    assert saved.step == 3
    resumed = worker.fit(resume_from=saved.path, plugins=[AsyncCheckpointIO()], period=0)
    assert equal(resumed, undisturbed)
    assert newest(worker.run).step == 9


class DirectoryIO(TorchCheckpointIO):
    """Writes a directory, as sharded strategies do."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write a file in it."""
        assert not storage_options
        assert not Path(path).with_suffix(".json").exists()
        Path(path).mkdir(parents=True)
        torch.save(checkpoint, Path(path) / "all")

    def load_checkpoint(self, path, map_location=None, **words):
        """Read that."""
        return super().load_checkpoint(Path(path) / "all", map_location, **words)


def test_a_checkpoint_that_is_a_directory_resumes(worker):
    """It is committed when every rank has written its part, and training goes on from it."""
    undisturbed = worker.fit()
    assert worker.fit(stop_at=2, plugins=[DirectoryIO()]) is None
    saved = newest(worker.run)
    assert (saved.step, saved.path.is_dir()) == (3, True)
    assert worker.run.read("progress")["checkpoint_step"] == 3
    assert equal(worker.fit(resume_from=saved.path, plugins=[DirectoryIO()]), undisturbed)

    def refuse(self, decision, **_words):
        del self, decision
        return False  # what all ranks get where one of them could not write

    saved.path.with_suffix(".json").unlink()
    worker.monkeypatch.setattr(SingleDeviceStrategy, "reduce_boolean_decision", refuse)
    assert worker.fit(stop_at=2, plugins=[DirectoryIO()]) is None
    assert newest(worker.run) is None
    assert "another rank could not" in worker.run.read("progress")["checkpoint_error"]


class ShardingStrategy(SingleDeviceStrategy):
    """Writes by itself, past its CheckpointIO, and refuses storage options, as FSDP does."""

    def save_checkpoint(self, checkpoint, filepath, storage_options=None):
        """Write a file in a directory."""
        if storage_options is not None:
            raise TypeError
        DirectoryIO().save_checkpoint(checkpoint, filepath)

    def load_checkpoint(self, checkpoint_path, weights_only=None):
        """Read that."""
        return DirectoryIO().load_checkpoint(checkpoint_path, weights_only=weights_only)


def test_a_sharded_strategy_saves_in_its_own_way_and_is_committed_after_that(worker):
    """Nothing is asked of it that it would refuse, and its checkpoint resumes."""
    undisturbed = worker.fit()
    words = {"strategy": ShardingStrategy(device="cpu"), "accelerator": "auto"}
    assert worker.fit(stop_at=2, **words) is None
    assert worker.run.read("progress")["checkpoint_error"] is None
    saved = newest(worker.run)
    assert (saved.step, saved.path.is_dir()) == (3, True)
    assert equal(worker.fit(resume_from=saved.path, **words), undisturbed)


class Gripper:
    """A class of the user's own."""


def test_a_users_own_class_does_not_keep_a_run_from_resuming(worker):
    """Plain checkpoints load with weights_only, those with objects of user classes without."""

    class Configured(Tiny):
        def __init__(self) -> None:
            super().__init__()
            self.hparams["gripper"] = Gripper()

    assert worker.fit(stop_at=2) is None
    assert interruption.weights_only_for(newest(worker.run).path)
    assert worker.fit(stop_at=4, kind=Configured) is None
    assert worker.fit(resume_from=newest(worker.run).path, kind=Configured)


def test_sigterm_is_a_request_in_training_alone(worker):
    """Before and after it SIGTERM does what it did; after an interruption it is ignored."""
    seen = {}

    class Noting(Tiny):
        def note(self, place):
            seen[place] = signal.getsignal(signal.SIGTERM)

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.note("sanity check" if self.trainer.sanity_checking else "validation")

        def on_train_end(self):
            self.note("train end")

    worker.fit(kind=Noting)
    request, default = interruption._request, signal.SIG_DFL
    assert seen == {"sanity check": default, "validation": request, "train end": default}
    assert signal.getsignal(signal.SIGTERM) is default

    assert worker.fit(stop_at=1) is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_a_request_to_stop_early_survives(worker):
    """A Trainer that was to stop once it may, stops there after an interruption too."""

    class Stopping(Tiny):
        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            if self.global_step == 1:
                self.trainer.should_stop = True

    words = {"kind": Stopping, "max_epochs": 3, "min_epochs": 1}
    undisturbed = worker.fit(**words)
    assert worker.fit(stop_at=2, **words) is None
    saved = newest(worker.run).path
    assert equal(worker.fit(resume_from=saved, **words), undisturbed)


def test_a_plain_shuffled_loader_goes_on_with_the_next_epoch(worker):
    """Interrupted between two epochs, a DistributedSampler's order is that of the next epoch."""

    def data():
        plain = loader()
        sampler = DistributedSampler(plain.dataset, num_replicas=1, rank=0)
        return DataLoader(plain.dataset, batch_size=2, sampler=sampler, num_workers=1)

    undisturbed = worker.fit(data=data())
    assert worker.fit(stop_at=BATCHES - 1, data=data()) is None
    assert equal(worker.fit(resume_from=newest(worker.run).path, data=data()), undisturbed)


def test_no_other_process_gets_the_callbacks(worker):
    """What a worker starts inherits its environment and is not watched."""
    worker.start()
    assert len(callbacks()) == 2
    worker.monkeypatch.setenv("GETIACTION_LAUNCH_WORKER", str(os.getppid()))
    assert callbacks() == []
