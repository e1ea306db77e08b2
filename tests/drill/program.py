"""A program to drill, which draws from every generator; arguments say what is wrong with it.

python program.py [tensorboard] [loader] [numpy] [callback]
"""

import os
import random
import sys

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader, Sampler

ROOT = os.environ.get("GETIACTION_RUN_DIR", "runs")
BATCHES, EPOCHS = 8, 2


class Net(LightningModule):
    """One layer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))

    def training_step(self, batch, batch_idx):
        """Use every generator."""
        del batch_idx
        draws = random.random() + np.random.rand()  # noqa: NPY002, S311 - the global ones
        loss = self.layer(batch).pow(2).mean() + self.layer[0].bias.sum() * draws
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        """Log something."""
        del batch_idx
        self.log("val", self.layer(batch).pow(2).mean())

    def configure_optimizers(self):
        """One with a state."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


class OwnOrder(Sampler):
    """Draws each epoch's order from a generator that nobody saves."""

    def __init__(self, size: int) -> None:
        self.size, self.order = size, random.Random(0)  # noqa: S311 - no secret

    def __len__(self) -> int:
        return self.size

    def __iter__(self):
        numbers = list(range(self.size))
        self.order.shuffle(numbers)
        return iter(numbers)


class Warmup(Callback):
    """Raises the learning rate by the number of steps that it has counted itself."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_start(self, trainer, *_) -> None:
        """Count."""
        self.count += 1
        for group in trainer.optimizers[0].param_groups:
            group["lr"] = 0.001 * self.count


def main(words: list[str]) -> None:
    """Train."""
    if "numpy" in words:
        torch.manual_seed(1)
        random.seed(1)
    else:
        seed_everything(1)
    data = torch.rand(BATCHES * 4, 4, generator=torch.Generator().manual_seed(0))
    own = {"sampler": OwnOrder(len(data))} if "loader" in words else {"shuffle": True}
    callbacks = [Warmup()] if "callback" in words else []
    board = [TensorBoardLogger(ROOT, "", "")] if "tensorboard" in words else []
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        log_every_n_steps=1,
        default_root_dir=ROOT,
        logger=[CSVLogger(ROOT, "", "csv"), *board],
        callbacks=[ModelCheckpoint(f"{ROOT}/checkpoints"), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(), DataLoader(data, 2, **own), DataLoader(data[:4], 2))


if __name__ == "__main__":
    main(sys.argv[1:])
