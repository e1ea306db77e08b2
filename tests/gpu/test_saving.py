"""A checkpoint of a GPU's state: copied through pinned memory, and equal."""

import pytest
import torch

from getiaction_launch.worker.saving.snapshot import LARGE_BYTES, SnapshotMemory

pytestmark = pytest.mark.usefixtures("gpu")

NUMBERS = 64 * LARGE_BYTES


def test_snapshot_of_a_gpu_is_pinned_equal_and_reused():
    """The copy is of the moment, in page-locked memory that the next snapshot uses again."""
    memory = SnapshotMemory()
    for number in range(2):
        weight = torch.full((NUMBERS,), float(number), device="cuda")
        small = torch.arange(3, device="cuda")
        state = {"weight": weight, "row": weight[1:5], "small": small}
        snapshot = memory.take(state)
        weight.fill_(-1)
        small.fill_(-1)
        copy = snapshot.content()
        assert copy["weight"].device.type == "cpu"
        assert copy["weight"].is_pinned()
        assert torch.equal(copy["weight"], torch.full((NUMBERS,), float(number)))
        assert copy["row"].untyped_storage().data_ptr() == copy["weight"].data_ptr()
        assert copy["small"].tolist() == [0, 1, 2]
        if number == 0:
            first = copy["weight"].data_ptr()
            del copy, snapshot
    assert copy["weight"].data_ptr() == first
    assert memory.size_bytes == weight.untyped_storage().nbytes()


def test_unchanged_state_shares_its_snapshot():
    """A second snapshot of the same numbers copies nothing, and waits for nobody."""
    memory = SnapshotMemory()
    weight = torch.rand(NUMBERS, device="cuda")
    first = memory.take({"weight": weight})
    second = memory.take({"weight": weight}, await_release=lambda: pytest.fail("it waits"))
    assert second.storages[0] is first.storages[0]
