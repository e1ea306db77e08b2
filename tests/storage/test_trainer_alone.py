"""A Trainer without the launcher on S3: the tree of a laptop, and curves at a fair price."""

import itertools
import socket
from types import SimpleNamespace

import fsspec
import pytest
import torch
from lightning.pytorch import LightningModule
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from getiaction.train import Trainer, remote_logger

STEPS = 40


class Line(LightningModule):
    """Logs a value in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1})
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        """One."""
        self.log("value", float(batch_idx))
        return self.layer(batch).sum()

    def configure_optimizers(self):
        """Plain."""
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        """So many batches."""
        return torch.utils.data.DataLoader(torch.zeros(STEPS, 1))


def fit(root: str) -> Trainer:
    """Train."""
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
    """What lies there, without what differs in the names of event files."""
    fs, path = fsspec.url_to_fs(root)
    fs.invalidate_cache()
    found = {name.removeprefix(path) for name in fs.find(path)}
    # Where boto3 is installed, TensorBoard puts an object in the place of a directory.
    return {name.partition("tfevents")[0] for name in found if not name.endswith("/")}


def test_same_tree_and_all_values(bucket, tmp_path):
    """What a laptop writes to its disk is on S3, and TensorBoard reads every step there."""
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
    """The first value goes at once, others after the period: no file is sent for each of them."""
    seconds = itertools.count()
    monkeypatch.setattr(
        remote_logger, "time", SimpleNamespace(monotonic=lambda: float(next(seconds)))
    )
    trainer = fit(f"{bucket}/runs")
    fs, path = fsspec.url_to_fs(trainer.log_dir)
    files = [entry for entry in fs.ls(path, refresh=True) if "tfevents" in entry]
    assert 2 <= len(files) <= STEPS / 5
    fs.get(path, str(tmp_path / "copy"), recursive=True)
    board = EventAccumulator(str(tmp_path / "copy"))
    board.Reload()
    assert [event.value for event in board.Scalars("value")] == list(range(STEPS))


def test_bucket_that_is_not_there_is_not_made(s3):
    """A typo would train into a new bucket."""
    with pytest.raises(ValueError, match=r"no bucket 'nowhere'(.|\n)*aws s3 mb"):
        fit("s3://nowhere/runs")
    assert not fsspec.filesystem("s3", endpoint_url=s3.endpoint).exists("nowhere")


def test_silent_server_is_named(s3, monkeypatch):
    """A server that takes connections and never answers does not hold the Trainer for minutes."""
    del s3
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ValueError, match=r"cannot be reached(.|\n)*AWS_ENDPOINT_URL"):
            fit("s3://bucket/runs")
