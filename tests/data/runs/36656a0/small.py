"""A model of six weights whose training gives the same bits on every processor."""

import random
import time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor

SHARE = 32  # a power of two, and so are all other factors


class Small(LightningModule):
    """Follows the dot with the L1 loss, whose gradient is a sum of short binary fractions.

    Nothing that enters a weight is rounded differently where sums go in another order, and each
    step draws from every generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        """Sometimes hide a part of what is seen."""
        seen, wanted = _read(batch)
        seen = seen * torch.randint(0, 2, seen.shape)
        draws = random.randrange(8) + np.random.randint(8)  # noqa: NPY002, S311 - the global ones
        loss = (self.layer(seen) - wanted + draws / 64).abs().sum() / SHARE
        self.log("train_loss", loss, batch_size=len(seen))
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        """Log something."""
        seen, wanted = _read(batch)
        loss = (self.layer(seen) - wanted).abs().mean()
        self.log("val_loss", loss, batch_size=len(seen), sync_dist=True)

    def configure_optimizers(self) -> tuple[list, list]:
        """An optimizer and a scheduler with a state."""
        optimizer = torch.optim.SGD(self.parameters(), lr=2**-6, momentum=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


def _read(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return tuple((batch[key] / 2).round() / 256 for key in ("observation.state", "action"))


class Pace(Callback):
    """Stretches the training as long as a file ``pace`` says by how many seconds a step."""

    def on_train_batch_start(self, *_: object) -> None:
        """Wait."""
        pace = Path("pace")
        time.sleep(float(pace.read_text()) if pace.exists() else 0)
