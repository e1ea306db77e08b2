"""``num_workers="auto"``: from the cores and the shared memory that a rank has."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from getiaction.data import LeRobotDataModule, lerobot
from getiaction.data.batch import WholeBatches
from getiaction.data.machine import auto_workers

PUSHT = Path(__file__).parents[1] / "data" / "lerobot" / "pusht_like_v30"


@pytest.mark.parametrize(
    ("cpus", "ranks", "workers"),
    [(1, "1", 0), (2, "1", 1), (8, "4", 1), (64, "2", 31), (2, "4", 0)],
)
def test_auto_workers_shares_the_usable_cpus(
    monkeypatch: pytest.MonkeyPatch, cpus: int, ranks: str, workers: int
) -> None:
    """The CPUs that this process may use are divided by the node's ranks, one is kept free."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "max 100000")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert auto_workers() == workers


def test_auto_workers_keeps_to_a_cgroup_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's CPU quota counts, although affinity shows all CPUs of the machine."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "350000 100000\n")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert auto_workers() == 3


@pytest.mark.parametrize(
    ("shm_mb", "ranks", "workers"), [(64, "1", 0), (300, "1", 2), (300, "2", 0), (4000, "1", 7)]
)
def test_auto_workers_keep_to_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch, shm_mb: int, ranks: str, workers: int
) -> None:
    """What two loaders have in it fits: two batches of each process, and one that is in use."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8 * int(ranks))))
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "max 100000")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=shm_mb * 10**6))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    warns = pytest.warns(UserWarning, match=f"starts {workers} loader .* instead of 7.*--shm-size")
    with nullcontext() if workers == 7 else warns:
        assert auto_workers(30 * 10**6) == workers


@pytest.mark.parametrize("transform", [None, torch.zeros_like])
@pytest.mark.parametrize("dtype", [None, torch.float32])
@pytest.mark.parametrize("image_size", [None, (20, 30)])
def test_auto_workers_know_the_size_of_a_batch(
    monkeypatch: pytest.MonkeyPatch, transform: Any, dtype: torch.dtype | None, image_size: Any
) -> None:
    """Counted are numbers and images, which are bytes if they become numbers on the device."""
    found: list[int] = []
    monkeypatch.setattr(lerobot, "auto_workers", lambda size: found.append(size) or 0)
    deltas = {"observation.image": [-0.1, 0.0], "action": [0.0, 0.1, 0.2]}
    datamodule = LeRobotDataModule(
        root=PUSHT,
        train_batch_size=4,
        delta_timestamps=deltas,
        image_transforms=transform,
        image_size=image_size,
    )
    datamodule.setup()
    collate = WholeBatches(frozenset(), dtype)
    monkeypatch.setattr(datamodule, "_collate", lambda _: collate)
    batch = next(iter(datamodule.train_dataloader()))
    image = batch["observation.image"]
    batch["observation.image"] = getattr(image, "pixels", image)
    size = sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
    assert found == [pytest.approx(size, rel=0.01)]


@pytest.mark.parametrize(
    "features", [torch.zeros(40, 2), {"action": object()}, {"action": {"dtype": "float32"}}]
)
def test_auto_workers_need_no_description_of_samples(features: Any) -> None:
    """A dataset of another class may have any attribute that is called `features`."""

    class Samples(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.tensor(index)

    datamodule = LeRobotDataModule(root=PUSHT)
    datamodule.train_dataset = Samples()  # type: ignore[assignment] # as users do
    datamodule.train_dataset.features = features
    assert isinstance(datamodule.train_dataloader().num_workers, int)
