"""Classes that train well as one rank, and not as two."""

import torch
from lab import SAMPLES, Data, Net
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


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
