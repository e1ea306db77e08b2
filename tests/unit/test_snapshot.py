"""A snapshot is what was there, whatever happens to it afterwards."""

import collections
import io

import pytest
import torch

from getiaction_launch.worker.saving.snapshot import LARGE_BYTES, SnapshotMemory

NUMBERS = LARGE_BYTES // 4


def saved(content: object) -> bytes:
    """What ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def loaded(content: bytes):
    """What ``torch.load`` reads of it."""
    return torch.load(io.BytesIO(content), weights_only=True)


@pytest.mark.parametrize("size", [8, NUMBERS])
def test_later_changes_do_not_reach_a_snapshot(size):
    """Tensors and all containers stay as they were; the file is the one saved at that moment."""
    state = collections.OrderedDict(weight=torch.rand(size, dtype=torch.float64))
    state["weight"][0] = float("nan")
    state._metadata = {"version": 1}
    content = {"state_dict": state, "lrs": [0.1], "names": ("a", {"b"}), "step": 3}
    content["parameter"] = torch.nn.Parameter(torch.rand(size).to(torch.bfloat16))
    before = saved(content)

    snapshot = SnapshotMemory().take(content)
    state["weight"].zero_()
    content["parameter"].data.zero_()
    state["other"] = 1
    state._metadata["version"] = 2
    content["lrs"].append(0.2)
    content["names"][1].add("c")

    assert saved(snapshot.content()) == before


@pytest.mark.parametrize("size", [8, NUMBERS])
def test_what_shares_memory_still_does(size):
    """Tied weights, views and transposed tensors are saved on one storage, as they were."""
    weight = torch.arange(2.0 * size).reshape(2, size)
    content = {"weight": weight, "tied": weight, "row": weight[1], "turned": weight.t()}
    snapshot = SnapshotMemory().take(content)
    weight.zero_()
    copy = loaded(saved(snapshot.content()))
    assert copy["tied"] is copy["weight"]
    assert copy["turned"].stride() == (1, size)
    copy["row"][0] = -1
    assert (
        copy["weight"][1].tolist()
        == copy["turned"].t()[1].tolist()
        == [-1, *range(size + 1, 2 * size)]
    )
    assert len(saved(snapshot.content())) < 1.2 * len(saved(torch.zeros(2 * size))) + 2000


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
def test_whatever_a_tensor_is_it_stays():
    """What torch can save of a tensor beside its numbers is in the copy too."""
    plain, noted = torch.rand(2, 4), torch.rand(4)
    noted.note = "mine"
    content = {
        "part": plain[1:, 2:],
        "spread": plain[0, :1].expand(3),
        "trained": torch.rand(2, requires_grad=True),
        "conjugate": torch.view_as_complex(torch.rand(4, 2)).conj(),
        "negative": torch.view_as_complex(torch.rand(4, 2)).conj().imag,
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.rand(3, device="meta"),
        "quantized": torch.quantize_per_tensor(plain, 0.1, 10, torch.quint8),
        "noted": noted,
        "half": plain.half(),
        "empty": torch.empty(0, 3),
    }
    copy = loaded(saved(SnapshotMemory().take(content).content()))
    for name, tensor in content.items():
        twin = copy[name]
        assert twin.is_conj() == tensor.is_conj(), name
        assert twin.is_neg() == tensor.is_neg(), name
        assert repr(twin) == repr(tensor), name
        assert vars(twin) == vars(tensor), name
        if tensor.layout is torch.strided:
            assert (twin.stride(), twin.dtype) == (tensor.stride(), tensor.dtype), name


def test_memory_is_used_again():
    """Snapshots one after the other, also of a part, need no more than the largest of them."""
    memory = SnapshotMemory()
    state = {"weight": torch.rand(NUMBERS), "mean": torch.rand(2 * NUMBERS)}
    first = {storage.data_ptr() for storage in memory.take(state).storages}
    for content in (state, {"weight": state["weight"]}, dict(reversed(state.items()))):
        state["weight"] += 1
        snapshot = memory.take(content)
        assert {storage.data_ptr() for storage in snapshot.storages} <= first
        assert torch.equal(snapshot.content()["weight"], state["weight"])
    for factor in range(3, 9):  # what grows leaves nothing behind
        memory.take({"log": torch.rand(factor * NUMBERS)})
        assert memory.size_bytes == max(factor, 3) * NUMBERS * 4


def test_a_state_that_was_not_changed_is_not_copied_again():
    """Two saves of one state share its memory; of two states, the second waits for the first."""
    memory, waited = SnapshotMemory(), []
    state = {"weight": torch.rand(NUMBERS), "frozen": torch.rand(NUMBERS), "seed": torch.rand(1)}
    first = memory.take(state)
    state["seed"] += 1
    second = memory.take({**state, "step": 2}, lambda: waited.append("second"))
    assert second.content()["seed"] == first.content()["seed"] + 1
    assert second.storages[0].data_ptr() == first.storages[0].data_ptr()
    assert not waited

    def wait():
        assert torch.equal(first.content()["weight"], before)
        waited.append("third")

    before = state["weight"].clone()
    state["weight"] += 1
    third = memory.take(state, wait)
    assert waited == ["third"]
    assert torch.equal(third.content()["weight"], state["weight"])


def test_without_a_large_tensor_nothing_is_shared():
    """A small state waits too, so that no number of them can pile up."""
    memory, waited = SnapshotMemory(), []
    memory.take({"weight": torch.zeros(2)})
    memory.take({"weight": torch.zeros(2)}, lambda: waited.append(1))
    assert waited


def test_what_cannot_be_saved_says_so_at_once():
    """The error is that of ``torch.save``, and comes where the user's code still is."""
    with pytest.raises(AttributeError, match="lambda"):
        SnapshotMemory().take({"hparams": lambda: None})


def test_the_mode_that_it_is_taken_in_does_not_matter():
    """Lightning validates, and then saves, in inference mode; training saves without."""
    memory = SnapshotMemory()
    state = {"weight": torch.nn.Parameter(torch.rand(NUMBERS))}
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            snapshot = memory.take(state)
        assert torch.equal(snapshot.content()["weight"], state["weight"])
        assert not snapshot.content()["weight"].is_inference()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_copied_into_pinned_memory():
    """The copy is whole before training goes on, and loads on a machine without a GPU."""
    memory = SnapshotMemory()
    weight = torch.rand(50 * NUMBERS, device="cuda")
    for _ in range(3):
        before = weight.cpu()
        snapshot = memory.take({"weight": weight})
        weight.add_(1)
        copy = snapshot.content()["weight"]
        assert copy.is_pinned()
        assert torch.equal(copy, before)
        assert loaded(saved(snapshot.content()))["weight"].device.type == "cpu"
    assert memory.size_bytes == 50 * NUMBERS * 4
