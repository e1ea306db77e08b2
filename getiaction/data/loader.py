"""A data loader that knows its position, so that training resumes with the batch that was next.

This is the one place that uses private parts of torch's DataLoader: `_index_sampler`, whose batches
carry a seed each, `_get_iterator`, and `dataset`, which torch does not allow to be replaced.
Saved positions are checked against undisturbed training in the tests of resuming.
"""

import copy
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """One rank's share of each epoch's order, which follows from seed and epoch alone.

    It shares out as torch's `DistributedSampler` does, whose name Lightning looks for so as not
    to put its own in place of it.

    Args:
        dataset: What is sampled.
        num_replicas: Number of ranks that share it.
        rank: This one's number among them.
        seed: Any integer; the same on every rank that shares.

    Attributes:
        round: How often the epoch has been gone through, for loops that never call `set_epoch`.
    """

    def __init__(self, dataset: Dataset[Any], *, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)
        self.round = 0

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch, self.round))
        length = len(self.dataset)  # type: ignore[arg-type] # torch's Dataset promises no length
        order = torch.randperm(length, generator=generator)
        places = torch.arange(self.rank, self.total_size, self.num_replicas)
        return iter(order[places % length].tolist())


class ResumableLoader(DataLoader[Any]):
    """A DataLoader of a map-style dataset that goes on where its saved state was taken.

    Its state is the epoch and the number of batches that it has handed out, the same on every
    rank. Going on skips indices, not data. Each batch is read, in whichever process, under random
    numbers of its own that follow from seed, epoch, rank and batch; the reading process's global
    generators are left as they were. No iterator draws from them either.

    Lightning saves and loads the state: it calls `set_epoch` of the sampler after it has asked for
    the first epoch's iterator, which therefore begins at its first `next`.

    Args:
        dataset: What is read.
        seed: Of the random numbers that reading takes.
        kwargs: Of `DataLoader`; without automatic batching (`batch_size=None`) it does not work.
    """

    def __init__(self, dataset: Dataset[Any], *, seed: int = 0, **kwargs: Any) -> None:  # noqa: ANN401 - torch's
        kwargs["generator"] = kwargs.get("generator") or torch.Generator()
        super().__init__(dataset, **kwargs)
        self.seed = seed
        self._batches = _SeededBatches(self.batch_sampler, self.sampler, seed)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # what it returns has no length
        self._batches.begin_round()
        return self._read()

    def _read(self) -> Iterator[Any]:
        self._batches.follow_sampler()
        self._batches.resumes = False
        for batch in super().__iter__():
            self._batches.seen += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Say where the loader is.

        Returns:
            "epoch" and "batches", the number of batches that it has handed out in this epoch.
        """
        self._batches.follow_sampler()
        return {"epoch": self._batches.epoch, "batches": self._batches.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iterator go on from there, unless the sampler is set to another epoch.

        Args:
            state: From `state_dict`.
        """
        self._batches.go_on(state["epoch"], state["batches"])

    @property
    def _index_sampler(self) -> "_SeededBatches":
        return self._batches

    def _get_iterator(self) -> Any:  # noqa: ANN401 - torch's, private
        loader = copy.copy(self)
        # Past torch's setter, which forbids it: users find their own dataset in `dataset`.
        loader.__dict__["dataset"] = _SeededReads(self.dataset)
        return DataLoader._get_iterator(loader)  # noqa: SLF001 - no public door to the iterator


class _Batch(list[int]):
    """Indices of one batch, and the seed of the random numbers that reading it takes."""

    seed: int


class _SeededBatches:
    """Batches of indices from a position on. Loader processes that persist keep this object."""

    def __init__(self, batch_sampler: Any, sampler: Any, seed: int) -> None:  # noqa: ANN401 - any of torch's
        self.batch_sampler, self.sampler, self.seed = batch_sampler, sampler, seed
        self.epoch, self.seen, self.resumes = 0, 0, False

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[_Batch]:
        rounds, first = divmod(self.seen, max(1, len(self)))
        if isinstance(self.sampler, EpochSampler):
            self.sampler.round = rounds
        rank = getattr(self.sampler, "rank", 0)
        remaining = itertools.islice(iter(self.batch_sampler), first, None)
        for number, indices in enumerate(remaining, self.seen):
            batch = _Batch(indices)
            batch.seed = _mix(self.seed, self.epoch, rank, number)
            yield batch

    def follow_sampler(self) -> None:
        """Be at the start of the sampler's epoch if that is another one."""
        if (epoch := getattr(self.sampler, "epoch", 0)) != self.epoch:
            self.epoch, self.seen, self.resumes = epoch, 0, False

    def begin_round(self) -> None:
        """Be where a new iterator begins: where a loaded state says, or at the start of a round."""
        self.follow_sampler()
        if not self.resumes:
            self.seen += -self.seen % max(1, len(self))

    def go_on(self, epoch: int, seen: int) -> None:
        """Have the next iterator begin after `seen` batches of `epoch`."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        self.epoch, self.seen, self.resumes = epoch, seen, True


class _SeededReads(Dataset[Any]):
    """A dataset, each batch of which is read under its own random numbers."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, batch: _Batch) -> list[Any]:
        with _random_numbers(batch.seed):
            if hasattr(self.dataset, "__getitems__"):
                items: list[Any] = self.dataset.__getitems__(batch)
                return items
            return [self.dataset[index] for index in batch]


@contextmanager
def _random_numbers(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), numpy and Python, and put them back after."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - as image transforms use
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 - as above
        random.setstate(states[2])


def _mix(*numbers: int) -> int:
    """Hash integers into a seed of 63 bits: sums, such as seed + epoch, would repeat."""
    return int(
        np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0] >> 1
    )
