"""What the programs of this folder share: a small net with dropout, noisy data, and a writer."""

import contextlib
import os
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

RUN = Path(os.environ["GETIACTION_RUN_DIR"])
SEED = 7
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


def samples(count: int = 14) -> TensorDataset:
    """Return the same samples each time."""
    generator = torch.Generator().manual_seed(SEED)
    return TensorDataset(torch.rand(count, 4, generator=generator))


def shuffled(count: int = 14) -> DataLoader:
    """Return a plain loader, as most programs have: 7 batches in a random order."""
    return DataLoader(samples(count), batch_size=2, shuffle=True)


class Stream(IterableDataset):
    """Yields noise that is seeded, and says how long it is or does not."""

    def __init__(self, count: int = 14) -> None:
        self.count = count

    def __iter__(self):
        return (sample for (sample,) in samples(self.count))


class SizedStream(Stream):
    """Says how long it is."""

    def __len__(self) -> int:
        return self.count


class Net(LightningModule):
    """Logs at each step and epoch, for training and validation."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3)
        )

    def loss(self, batch) -> torch.Tensor:
        """Return a loss that random numbers take part in."""
        (x,) = batch if isinstance(batch, list | tuple) else (batch,)
        return (self.layers(x) - 1).square().mean()

    def training_step(self, batch, batch_idx):
        """Log each step."""
        del batch_idx
        with contextlib.suppress(OSError, ValueError):  # a test makes it slow, to disturb it
            time.sleep(float(Path("pace").read_text()))
        loss = self.loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        """Log the mean of an epoch."""
        del batch_idx
        self.log("val/loss", self.loss(batch), batch_size=2)

    def configure_optimizers(self):
        """Return Adam with a schedule."""
        optimizer = torch.optim.Adam(self.parameters(), self.lr)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def keep(**models: torch.nn.Module) -> None:
    """Write the weights of a program's models into the run, as its last act."""
    for name, model in models.items():
        torch.save(model.state_dict(), RUN / f"{name}.pt")
