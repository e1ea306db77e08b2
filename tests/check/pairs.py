"""Classes that train well as one rank, and not as two."""

import os
import time
from pathlib import Path

import numpy as np
import torch
from lab import SAMPLES, Data, Net
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset


class Uneven(Data):
    """Gives rank 0 more samples than the others."""

    def train_dataloader(self):
        """Return a loader that Lightning divides."""
        number = SAMPLES if self.trainer.global_rank == 0 else SAMPLES // 2
        return DataLoader(TensorDataset(torch.rand(number, 4)), batch_size=2)


class Numbers(IterableDataset):
    """Yields the same numbers on each rank, or each rank its own."""

    def __init__(self, is_divided):
        """Remember whether to divide them."""
        self.is_divided = is_divided

    def __iter__(self):
        """Yield one sample after another."""
        rank = 0
        if self.is_divided and torch.distributed.is_initialized():
            rank = torch.distributed.get_rank()
        for number in range(rank, SAMPLES, 2):
            yield (torch.full((4,), float(number)),)


class Stream(Data):
    """Streams its samples."""

    def __init__(self, is_divided: bool = False):
        """Remember whether the ranks divide them."""
        super().__init__()
        self.is_divided = is_divided

    def train_dataloader(self):
        """Return a loader that Lightning cannot divide."""
        return DataLoader(Numbers(self.is_divided), batch_size=2)


class Waiting(Net):
    """Has rank 0 wait for the others where they do not come to."""

    def on_validation_epoch_end(self):
        """Wait, by a name that no reader of the source knows."""
        if self.trainer.is_global_zero and self.trainer.world_size > 1:
            self.meet = self.trainer.strategy.barrier
            self.meet()


class Second(Net):
    """Fails on rank 1."""

    def on_fit_start(self):
        """Look for what only rank 0 has."""
        if self.global_rank:
            raise KeyError("calibration")


class Streams(Data):
    """Streams more samples on rank 0, which no length shows."""

    def train_dataloader(self):
        """Return a loader that Lightning cannot divide."""
        return DataLoader(Deal(), batch_size=4)


class Deal(IterableDataset):
    """Deals files of other lengths to the ranks."""

    def __iter__(self):
        """Yield twice as many numbers on rank 0."""
        is_second = torch.distributed.is_initialized() and torch.distributed.get_rank()
        yield from torch.rand(12 if is_second else 24, 1, 4)


class Halves(Data):
    """Holds out other samples on each rank, or each rank's own half."""

    def __init__(self, seed: int | None = None):
        """Remember a seed."""
        super().__init__()
        self.seed = seed

    def setup(self, stage):
        """Split at random, with the seed or with that of the process."""
        del stage
        order = np.random.default_rng(self.seed).permutation(SAMPLES)
        self.samples = Subset(TensorDataset(torch.rand(SAMPLES, 4)), order[: SAMPLES // 2])

    def train_dataloader(self):
        """Return a loader that Lightning divides."""
        return DataLoader(self.samples, batch_size=2)


class Drifting(Net):
    """Has weights that DDP does not know of, until they are trained."""

    def setup(self, stage):
        """Freeze a layer before DDP is made."""
        del stage
        self.layer.bias.requires_grad_(False)

    def on_train_epoch_start(self):
        """Train it from the second epoch on."""
        self.layer.bias.requires_grad_(self.current_epoch > 0)


class Late(Net):
    """Fails in the middle of an epoch."""

    def training_step(self, batch, batch_idx):
        """Meet a label that is not there."""
        if batch_idx == 3:
            raise KeyError("left_gripper")
        return super().training_step(batch, batch_idx)


class Gathering(Net):
    """Reads what only several ranks gather."""

    def validation_step(self, batch, batch_idx):
        """Iterate over the ranks."""
        del batch_idx
        losses = self.all_gather(self.layer(batch[0]).pow(2).mean())
        self.log("val_loss", sum(losses) / len(list(losses)))


class Prepared(Data):
    """Has rank 0 prepare what all read."""

    def setup(self, stage):
        """Write slowly, and wait for it."""
        del stage
        path = Path(os.environ["GETIACTION_RUN_DIR"], "features.pt")
        if self.trainer.is_global_zero:
            path.parent.mkdir(exist_ok=True)
            time.sleep(0.2)
            torch.save(torch.rand(SAMPLES, 4), path)
        self.trainer.strategy.barrier()
        self.features = torch.load(path)


class Ragged(Net):
    """Gathers what has another length on each rank."""

    def on_validation_epoch_end(self):
        """Gather it."""
        if self.trainer.world_size > 1:
            self.all_gather(torch.ones(1 + 98 * self.global_rank))
