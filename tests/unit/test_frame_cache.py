"""Decoded images are kept in memory that loader processes share, and samples stay the same."""

import pickle
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from getiaction.data import DatasetError, LeRobotDataset, cameras, frame_cache
from getiaction.data.frame_cache import FrameCache

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT, ALOHA = DATA / "pusht_like_v30", DATA / "aloha_like_v21"
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def opened(root: Path, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> LeRobotDataset:
    """Open a dataset whose decoded images are kept."""
    with monkeypatch.context() as patch:
        patch.setenv("GETIACTION_FRAMES_GB", "inf")
        return LeRobotDataset(root=root, **kwargs)


def decode_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every file that is decoded from now on, in loader processes too, be an error."""

    def fail(*_: Any) -> None:
        raise DatasetError

    monkeypatch.setattr(cameras.CameraReader, "_decode_whole", fail)


def loaded(dataset: LeRobotDataset, num_workers: int) -> list[Any]:
    """Read the first samples in loader processes."""
    loader: DataLoader[dict[str, Any]] = DataLoader(
        torch.utils.data.Subset(dataset, range(20)),
        batch_size=10,
        num_workers=num_workers,
        timeout=60 * num_workers,
    )
    return list(loader)


@pytest.mark.parametrize("size", [None, (24, 32)])
@pytest.mark.parametrize("root", [PUSHT, ALOHA], ids=["one camera", "several"])
def test_what_loader_processes_have_decoded_is_not_decoded_again(
    root: Path, size: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by those of the next epoch nor by the rank itself, and every sample is the same."""
    plain = LeRobotDataset(root=root, image_size=size)
    right = [*loaded(plain, 0), plain.read_batch(range(20))]
    dataset = opened(root, monkeypatch, image_size=size)
    loaded(dataset, 2)
    decode_nothing(monkeypatch)
    found = [*loaded(dataset, 2), dataset.read_batch(range(20))]
    for one, other in zip(found, right, strict=True):
        for key in dataset._metadata.camera_keys:
            same, wanted = (getattr(each[key], "pixels", each[key]) for each in (one, other))
            assert torch.equal(same, wanted), key


def test_images_beyond_the_limit_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first rows have a place; one that has none, or is not written yet, is read as ever."""
    cache = FrameCache({"a": IMAGE, "b": IMAGE[:1]}, 10, 5.5 * (24 + 12 + 8))
    for row in (3, 4, 5):
        cache.write("a", row, IMAGE + row)
    assert [cache.read("a", row) is not None for row in range(8)] == [False] * 3 + [True] * 2 + [
        False
    ] * 3
    assert np.array_equal(cache.read("a", 4), IMAGE + 4)
    assert cache.read("b", 4) is None
    cache.write("b", 4, IMAGE)  # of another shape
    assert cache.read("b", 4) is None
    monkeypatch.setattr(cameras, "memory_share_bytes", lambda: 0)
    assert opened(PUSHT, monkeypatch)[3]["observation.image"].any()


def test_an_image_that_is_being_written_is_not_read() -> None:
    """Its checksum is there before its last bytes, as another process may see it."""
    cache = FrameCache({"a": IMAGE}, 2, 1e6)
    cache.write("a", 1, IMAGE)
    cache._images["a"][1, 0, 0, 0] += 1
    assert cache.read("a", 1) is None


def look(cache: FrameCache, row: int) -> None:
    """Read and write in another process."""
    assert np.array_equal(cache.read("a", 0), IMAGE)
    cache.write("a", row, IMAGE)


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_processes_that_are_started_get_the_memory_itself(start_method: str) -> None:
    """However they are started; any other pickle, as in a file, begins without images."""
    cache = FrameCache({"a": IMAGE}, 2, 1e6)
    cache.write("a", 0, IMAGE)
    process = get_context(start_method).Process(target=look, args=(cache, 1))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert np.array_equal(cache.read("a", 1), IMAGE)
    copy = pickle.loads(pickle.dumps(cache))  # noqa: S301 - our own bytes
    assert copy.read("a", 0) is None
    copy.write("a", 0, IMAGE)
    assert copy.read("a", 0) is None


def test_memory_without_a_name_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux, a warning says that nothing is kept."""
    monkeypatch.delattr(frame_cache.os, "memfd_create")
    with pytest.warns(UserWarning, match="GETIACTION_FRAMES_GB has no effect"):
        cache = FrameCache({"a": IMAGE}, 2, 1e6)
    cache.write("a", 0, IMAGE)
    assert cache.read("a", 0) is None


def test_a_limit_that_is_no_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and shows a right value."""
    monkeypatch.setenv("GETIACTION_FRAMES_GB", "much")
    with pytest.raises(DatasetError, match=r"GETIACTION_FRAMES_GB='much'.*_FRAMES_GB=1"):
        LeRobotDataset(root=PUSHT)
