"""An epoch that another number of ranks, or another batch size, continues in its middle."""

import itertools
from collections import Counter
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from getiaction.data.loader import EpochSampler, ResumableLoader

SHAPES = [(1, 4), (2, 3), (3, 2), (4, 1)]


class Numbers(Dataset[Any]):
    """Each sample is its own index."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


def make_loaders(length: int, shape: tuple[int, int], **options: Any) -> list[ResumableLoader]:
    """The loaders of so many ranks with this batch size."""
    ranks, batch_size = shape
    loaders = []
    for rank in range(ranks):
        data = Numbers(length)
        sampler = EpochSampler(data, num_replicas=ranks, rank=rank, seed=3)
        options |= {"seed": 3, "batch_size": batch_size, "sampler": sampler}
        loaders.append(ResumableLoader(data, **options))
    return loaders


def read(loaders: list[ResumableLoader], number: int | None = None) -> tuple[list[int], int]:
    """Read some batches on each rank; return the samples of all, and how many batches one read."""
    shares = [list(itertools.islice(iter(loader), number)) for loader in loaders]
    assert len({len(share) for share in shares}) == 1
    return [i for share in shares for batch in share for i in batch.tolist()], len(shares[0])


@pytest.mark.parametrize(("before", "after"), [*itertools.permutations(SHAPES, 2)])
@pytest.mark.parametrize("length", [24, 29])
def test_the_rest_of_an_epoch_has_what_nobody_has_read(before, after, length):
    """Each sample once, but for those that give every rank the same number; the next is whole."""
    first = make_loaders(length, before)
    seen, _ = read(first, 2)
    state = first[0].state_dict()
    assert all(loader.state_dict() == state for loader in first)
    second = make_loaders(length, after)
    for loader in second:
        loader.load_state_dict(state)
    counted = second[0].batches_read
    rest, number = read(second)
    assert counted + number == len(second[0])  # so the loop ends with the epoch
    assert second[0].batches_read == len(second[0])
    assert set(seen) | set(rest) == set(range(length))
    assert len(seen) + len(rest) - length < after[0]
    for loader in second:
        loader.sampler.set_epoch(1)
    whole, number = read(second)
    assert (set(whole), number) == (set(range(length)), len(second[0]))


def test_an_epoch_may_change_its_ranks_more_than_once():
    """Also back to those that it had begun with, and without a batch in between."""
    length, seen = 61, Counter()
    state: dict[str, int] | None = None
    for shape, number in [((2, 3), 2), ((3, 2), 1), ((1, 4), 0), ((2, 3), 3), ((2, 3), None)]:
        loaders = make_loaders(length, shape)
        for loader in loaders:
            if state:
                loader.load_state_dict(state)
        samples, _ = read(loaders, number)
        seen.update(samples)
        state = loaders[0].state_dict()
    assert set(seen) == set(range(length))
    assert seen.total() - length < 2


def test_incomplete_batches_are_left_out_of_the_rest_too():
    """With ``drop_last``, every batch is a whole one, and none is read twice."""
    first = make_loaders(49, (2, 4), drop_last=True)
    seen, _ = read(first, 2)
    second = make_loaders(49, (3, 4), drop_last=True)
    for loader in second:
        loader.load_state_dict(first[0].state_dict())
    counted = second[0].batches_read
    rest, number = read(second)
    assert counted + number == len(second[0]) == 4
    assert len(rest) == 3 * 4 * number == 24
    assert set(seen).isdisjoint(rest)


def test_a_state_of_an_earlier_version_is_a_position():
    """It does not say how many ranks have saved it, which are then those of now."""
    (loader,) = make_loaders(24, (1, 4))
    whole, _ = read([loader])
    (again,) = make_loaders(24, (1, 4))
    again.load_state_dict({"epoch": 0, "batches": 2})
    assert again.batches_read == 2
    assert read([again])[0] == whole[8:]


def test_no_plain_loader_claims_to_know():
    """What the launcher looks for is on our loader alone."""
    assert not hasattr(DataLoader(Numbers(4)), "batches_read")


def test_a_node_knows_what_its_ranks_read_next():
    """In the order of their steps, without what a checkpoint says that they have read."""
    loaders, passed = make_loaders(41, (4, 3)), []
    orders = [list(loader.sampler) for loader in loaders]
    sampler = loaders[1].sampler
    sampler.on_pass = passed.append
    read(loaders[1:2], 2)
    loaders[1].load_state_dict(loaders[1].state_dict())
    read(loaders[1:2], 1)
    assert passed == [0, 6]
    steps = zip(orders[1][6:], orders[2][6:], strict=True)
    assert sampler.upcoming(6, 2).tolist() == [index for step in steps for index in step]
