"""Streams that never end, and some that look as if they did not."""

import itertools

import torch
from lab import SAMPLES, Data
from torch.utils.data import DataLoader, IterableDataset, TensorDataset


class _Cycling(IterableDataset):
    def __iter__(self):
        for number in itertools.cycle(range(SAMPLES)):
            yield (torch.full((4,), number / SAMPLES),)


class _Looping(IterableDataset):
    def __iter__(self):
        yield from self.read()

    def read(self):
        while True:
            for _ in range(SAMPLES):
                if torch.rand(()) < 0:
                    break
                yield (torch.ones(4),)


class _Ending(IterableDataset):
    """Reads until there is nothing left, or forever if it is told to."""

    repeats = False

    def __iter__(self):
        numbers = iter(range(SAMPLES))
        while True:
            number = next(numbers, None)
            if number is None:
                break
            yield (torch.full((4,), number / SAMPLES),)
        if self.repeats:
            for _ in itertools.count():
                yield (torch.ones(4),)


STREAMS = {each.__name__[1:].lower(): each for each in (_Cycling, _Looping, _Ending)}


class Streams(Data):
    """Has a stream for training, for validation, or for both."""

    def __init__(self, training: str = "", validation: str = "") -> None:
        super().__init__()
        self.training, self.validation = training, validation

    def train_dataloader(self):
        """Return the stream of that name, or rows."""
        return self._loader(self.training)

    def val_dataloader(self):
        """Return the stream of that name, or rows."""
        return self._loader(self.validation)

    def _loader(self, name):
        rows = TensorDataset(torch.ones(SAMPLES, 4))
        return DataLoader(STREAMS[name]() if name else rows, batch_size=4)
