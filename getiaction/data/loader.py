"""A data loader that knows its position, so that training resumes with the batch that was next.

This is the one place that uses private parts of torch's DataLoader: `_index_sampler`, whose batches
carry a seed each, `_get_iterator`, and `dataset`, which torch does not allow to be replaced.
Saved positions are checked against undisturbed training in the tests of resuming.
"""

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from torch.utils.data.sampler import BatchSampler

from getiaction.data.batch import BatchReads, WholeBatches, unchanged

# A list of the indices of an epoch would take 40 MB per million samples in each rank.
INDICES_AT_ONCE = 4096


class EpochSampler(DistributedSampler[Any]):
    """One rank's share of a shuffled epoch; the order depends on seed and epoch only.

    Samples are divided among the ranks as torch's `DistributedSampler` does it. It is a subclass,
    because Lightning replaces samplers of other classes when it trains on several ranks.

    Args:
        dataset: Map-style dataset to sample from.
        num_replicas: Number of ranks that share the dataset.
        rank: Number of this rank, from 0.
        seed: Seed of the shuffling, any integer; the same on every rank that shares.

    Attributes:
        round: Number of times that this epoch was iterated before, for loops that never call
            `set_epoch`; each round has its own order.
        first: Place in the order from which the ranks share it; what lies before was read by
            another number of ranks.
        on_pass: Called when a `ResumableLoader` begins to read, with the number of samples that it
            skips.
    """

    def __init__(self, dataset: Dataset[Any], *, num_replicas: int, rank: int, seed: int) -> None:
        super().__init__(dataset, num_replicas, rank, seed=seed)
        self.round, self.first = 0, 0
        self.on_pass: Callable[[int], None] | None = None

    def __iter__(self) -> Iterator[int]:
        chosen = self.upcoming(0, 1)
        starts = range(0, len(chosen), INDICES_AT_ONCE)
        return itertools.chain.from_iterable(
            chosen[start : start + INDICES_AT_ONCE].tolist() for start in starts
        )

    def upcoming(self, passed: int, num_ranks: int) -> torch.Tensor:
        """Return what this rank and those after it read, in the order of their steps.

        Args:
            passed: Number of samples that each rank skips.
            num_ranks: Number of ranks, with this one.

        Returns:
            Numbers of samples, (N,) int64.
        """
        generator = torch.Generator().manual_seed(_mix(self.seed, self.epoch, self.round))
        length = len(self.dataset)  # type: ignore[arg-type] # Dataset does not declare __len__
        order = torch.randperm(length, generator=generator)
        places = torch.arange(self.first, self._end).view(-1, self.num_replicas)
        return order[places[passed:, self.rank : self.rank + num_ranks].reshape(-1) % length]

    @property
    def _end(self) -> int:
        """Where the order ends, with as many samples again as give each rank the same number."""
        rest = len(self.dataset) - self.first  # type: ignore[arg-type] # as above
        return self.first + math.ceil(rest / self.num_replicas) * self.num_replicas


class BatchLoader(DataLoader[Any]):
    """A DataLoader that has its dataset read whole batches if its `collate_fn` is `WholeBatches`.

    It has the arguments of `torch.utils.data.DataLoader`, and `dataset` stays what was given.
    """

    def _get_iterator(self) -> Any:  # noqa: ANN401 - torch's private iterators
        loader, collate = copy.copy(self), self.collate_fn
        reads: Dataset[Any] = self.dataset
        if isinstance(collate, WholeBatches):
            reads = BatchReads(self.dataset, collate.image_dtype)  # type: ignore[arg-type] # it reads batches
            loader.collate_fn = unchanged
        # Written past torch's setter, which forbids it.
        loader.__dict__["dataset"] = self._reads(reads)
        return DataLoader._get_iterator(loader)  # noqa: SLF001 - no public method makes an iterator

    def _reads(self, dataset: Dataset[Any]) -> Dataset[Any]:
        return dataset


class ResumableLoader(BatchLoader):
    """A DataLoader over a map-style dataset that resumes from a saved position.

    The position is the epoch and the number of batches returned in it, the same on every rank. To
    resume, it skips indices and reads no data. Each batch is read with the global random generators
    seeded from seed, epoch, rank and batch number, in whichever process that happens, and their
    previous state is restored afterwards. Iterators do not draw from the global generators either.

    Lightning saves and loads the state. It calls the sampler's `set_epoch` only after it has
    created the iterator of the first epoch, so an iterator reads its position at the first `next`.

    Args:
        dataset: Map-style dataset to read.
        seed: Seed of the random numbers that are drawn while samples are read.
        **kwargs: Arguments of `torch.utils.data.DataLoader`, apart from `batch_size=None`, which is
            not supported.
    """

    def __init__(self, dataset: Dataset[Any], *, seed: int = 0, **kwargs: Any) -> None:  # noqa: ANN401 - types of torch
        kwargs["generator"] = kwargs.get("generator") or torch.Generator()
        super().__init__(dataset, **kwargs)
        self.seed = seed
        self._batches = _SeededBatches(self.batch_sampler, self.sampler, seed)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # a plain iterator
        self._batches.begin_round()
        return self._read()

    def _read(self) -> Iterator[Any]:
        self._batches.follow_sampler()
        self._batches.resumes = False
        for batch in super().__iter__():
            self._batches.seen += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the position of the loader.

        Returns:
            "epoch", and "batches", the number of batches that were returned in this epoch. If the
            ranks share an epoch by an `EpochSampler`, also what another number of ranks or another
            batch size needs to continue with the samples that are left: "ranks", "batch_size",
            "first", the place in the epoch's order from which these ranks share it, and "counted",
            the number of batches that count as read before it.
        """
        batches = self._batches
        batches.follow_sampler()
        state = {"epoch": batches.epoch, "batches": batches.seen}
        if shape := batches.shape:
            state |= {"ranks": shape[0], "batch_size": shape[1]}
            state |= {"first": batches.first, "counted": batches.counted}
        return state

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iterator at a saved position, unless the sampler is set to another epoch.

        If another number of ranks or another batch size has saved it, the rest of the epoch has
        exactly the samples that nobody has read, and as many batches count as read before it as
        make its length right.

        Args:
            state: Position that `state_dict` returned.
        """
        self._batches.resume(state["epoch"], state["batches"])
        if "ranks" in state:
            shape = state["ranks"], state["batch_size"]
            self._batches.share_rest(shape, state["first"], state["counted"])

    @property
    def batches_read(self) -> int:
        """How many batches of the epoch count as read: fewer or more after a change of ranks."""
        batches = self._batches
        is_over = batches.first and batches.seen and not batches.seen % len(batches)
        return len(batches) if is_over else batches.seen % max(1, len(batches))

    @property
    def _index_sampler(self) -> "_SeededBatches":
        return self._batches

    def _reads(self, dataset: Dataset[Any]) -> Dataset[Any]:
        return _SeededReads(dataset)


class _Batch(list[int]):
    """Indices of one batch, with the seed of the random numbers that are drawn to read it."""

    seed: int


class _SeededBatches:
    """Batches of indices, starting at a position. Persistent loader processes keep this object."""

    def __init__(self, batch_sampler: Any, sampler: Any, seed: int) -> None:  # noqa: ANN401 - types of torch
        self.batch_sampler, self.sampler, self.seed = batch_sampler, sampler, seed
        self.epoch, self.seen, self.resumes = 0, 0, False
        # From this place of the epoch's order on it is shared, after so many batches that count.
        self.first, self.counted = 0, 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[_Batch]:
        rounds, passed = divmod(self.seen, max(1, len(self)))
        if isinstance(self.sampler, EpochSampler):
            self.sampler.round, self.sampler.first = rounds, self.first
            passed = self.seen - self.counted if self.first else passed
            if self.sampler.on_pass is not None:
                self.sampler.on_pass(passed * (self.shape or (1, 0))[1])
        rank = getattr(self.sampler, "rank", 0)
        remaining = itertools.islice(iter(self.batch_sampler), passed, None)
        for number, indices in enumerate(remaining, self.seen):
            batch = _Batch(indices)
            batch.seed = _mix(self.seed, self.epoch, rank, number)
            yield batch

    @property
    def shape(self) -> tuple[int, int] | None:
        """How many ranks share the epoch's order, and their batch size; None if they do not."""
        is_torchs = type(self.batch_sampler) is BatchSampler
        if not (is_torchs and isinstance(self.sampler, EpochSampler)):
            return None
        return self.sampler.num_replicas, int(self.batch_sampler.batch_size)

    def follow_sampler(self) -> None:
        """Move to the start of the sampler's epoch, if it has changed."""
        if (epoch := getattr(self.sampler, "epoch", 0)) != self.epoch:
            self.epoch, self.seen, self.resumes = epoch, 0, False
            self.first = self.counted = 0

    def begin_round(self) -> None:
        """Move to where a new iterator starts: a loaded position, or else the start of a round."""
        self.follow_sampler()
        if not self.resumes:
            self.seen += -self.seen % max(1, len(self))
            self.first = self.counted = 0

    def resume(self, epoch: int, seen: int) -> None:
        """Start the next iterator after `seen` batches of `epoch`."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        self.epoch, self.seen, self.resumes = epoch, seen, True
        self.first = self.counted = 0

    def share_rest(self, saved: tuple[int, int], first: int, counted: int) -> None:
        """Continue where ranks had arrived whose number or batch size may be another one.

        Args:
            saved: Number of those ranks, and their batch size.
            first: Place in the epoch's order from which they shared it.
            counted: Number of batches that counted as read before that place.
        """
        self.first, self.counted = first, counted
        if self.shape in (saved, None):
            return
        length = len(self.sampler.dataset)
        rounds, passed = divmod(self.seen, max(1, self._count(length, saved)))
        self.first += (self.seen - counted if first else passed) * saved[0] * saved[1]
        left = self._count(max(0, length - self.first), self.shape)
        self.seen = self.counted = (rounds + 1) * len(self) - left
        if not passed:
            self.first, self.counted, self.seen = 0, 0, rounds * len(self)

    def _count(self, samples: int, shape: tuple[int, int] | None) -> int:
        """Count the batches that each of so many ranks makes of its share of samples."""
        ranks, batch_size = shape or (1, 1)
        share = math.ceil(samples / ranks)
        drops = self.batch_sampler.drop_last
        return share // batch_size if drops else math.ceil(share / batch_size)


class _SeededReads(Dataset[Any]):
    """A dataset that seeds the global random generators before it reads a batch."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitems__(self, batch: _Batch) -> Any:  # noqa: ANN401 - a whole batch or samples
        with _random_numbers(batch.seed):
            if hasattr(self.dataset, "__getitems__"):
                return self.dataset.__getitems__(batch)
            return [self.dataset[index] for index in batch]


@contextmanager
def _random_numbers(seed: int) -> Iterator[None]:
    """Seed the global generators of torch (CPU), NumPy and Python, and restore them afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - image transforms use it
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
    """Hash integers into a seed of 63 bits; a sum such as seed + epoch would repeat seeds."""
    return int(
        np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0] >> 1
    )
