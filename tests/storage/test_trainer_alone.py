"""A Trainer on S3 without the launcher: the same tree as on a laptop, with few uploads."""

import itertools
import socket
from types import SimpleNamespace

import fsspec
import pytest
import torch
from lightning.pytorch import LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from getiaction.train import Trainer, remote_logger

STEPS = 40


class Line(LightningModule):
    """Logs a value in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        """Log the index of the batch."""
        self.log("value", float(batch_idx))
        return self.layer(batch).sum()

    def configure_optimizers(self):
        """Return plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        """Return a loader of :data:`STEPS` batches."""
        return torch.utils.data.DataLoader(torch.zeros(STEPS, 1))


def fit(root: str) -> Trainer:
    """Train the model for one epoch."""
    trainer = Trainer(
        default_root_dir=root,
        experiment_name="line",
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Line())
    return trainer


def names(root: str) -> set[str]:
    """List all files, with event files' names cut to what all runs share."""
    fs, path = fsspec.url_to_fs(root)
    fs.invalidate_cache()
    found = {name.removeprefix(path) for name in fs.find(path)}
    # If boto3 is installed, TensorBoard creates objects in place of directories.
    return {name.partition("tfevents")[0] for name in found if not name.endswith("/")}


def test_same_tree_and_all_values(bucket, tmp_path):
    """S3 has the files that a laptop would have, and TensorBoard reads every step there."""
    local = fit(str(tmp_path / "runs"))
    remote = fit(f"{bucket}/runs")
    assert remote.log_dir == f"{bucket}/runs/line/version_0"
    assert names(f"{bucket}/runs") == names(str(tmp_path / "runs"))
    fs, path = fsspec.url_to_fs(remote.log_dir)
    fs.get(path, str(tmp_path / "copy"), recursive=True)
    board = EventAccumulator(str(tmp_path / "copy"))
    board.Reload()
    assert [event.value for event in board.Scalars("value")] == list(range(STEPS))
    again = fit(f"{bucket}/runs")
    assert again.log_dir == f"{bucket}/runs/line/version_1"
    assert local.global_step == STEPS


def test_values_are_sent_once_and_soon(bucket, tmp_path, monkeypatch):
    """The first value is uploaded at once, others after the period and not one by one."""
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)), time=lambda: next(seconds))
    monkeypatch.setattr(remote_logger, "time", clock)
    # TensorBoard reads files by their names, which have the second in which each was begun.
    monkeypatch.setattr(event_file_writer, "time", clock)
    trainer = fit(f"{bucket}/runs")
    fs, path = fsspec.url_to_fs(trainer.log_dir)
    files = [entry for entry in fs.ls(path, refresh=True) if "tfevents" in entry]
    assert 2 <= len(files) <= STEPS / 5
    fs.get(path, str(tmp_path / "copy"), recursive=True)
    board = EventAccumulator(str(tmp_path / "copy"))
    board.Reload()
    assert [event.value for event in board.Scalars("value")] == list(range(STEPS))


def test_missing_bucket_is_not_created(s3):
    """A typo does not create a bucket."""
    with pytest.raises(ValueError, match=r"no bucket 'nowhere'(.|\n)*aws s3 mb"):
        fit("s3://nowhere/runs")
    assert not fsspec.filesystem("s3", endpoint_url=s3.endpoint).exists("nowhere")


def test_silent_server_is_named(s3, monkeypatch):
    """A server that accepts connections and never answers does not block for minutes."""
    del s3
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"cannot be reached(.|\n)*AWS_ENDPOINT_URL"):
            fit("s3://bucket/runs")
