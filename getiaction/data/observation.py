"""What a policy and the Trainer need to know of a dataset, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, Subset

from getiaction.lightning_seams import loop_data


@runtime_checkable
class PolicyDataset(Protocol):
    """A dataset that a policy can be built for: any class with these four attributes.

    Attributes:
        stats: Per feature key ("observation.*", "action") a dict of plain Python values: "type" is
            "VISUAL", "STATE", "ENV" or "ACTION"; "shape" a list, images as [C, H, W]; "mean",
            "std", "min" and "max" nested lists of that rank, images as [C][1][1].
        features: Per feature key its LeRobot description ("dtype", "shape", "names").
        fps: Frames per second.
        delta_indices: Per feature key the frame offsets that a sample stacks, relative to its own
            frame; None, or an absent key, for that frame alone. Settable.
    """

    delta_indices: dict[str, list[int]] | None

    @property
    def stats(self) -> dict[str, dict[str, Any]]: ...  # noqa: D102 - described in the class

    @property
    def features(self) -> dict[str, dict[str, Any]]: ...  # noqa: D102 - described in the class

    @property
    def fps(self) -> float: ...  # noqa: D102 - described in the class


def find_policy_dataset(trainer: Trainer) -> PolicyDataset | None:
    """Find the dataset that a policy is built for: the training one where there is one.

    Args:
        trainer: A Trainer that was handed its data, so from `setup` on.

    Returns:
        The first of `find_policy_datasets`, or None if no known dataset is attached.
    """
    return next(iter(find_policy_datasets(trainer)), None)


def find_policy_datasets(trainer: Trainer) -> list[PolicyDataset]:
    """Find every known dataset that the Trainer was handed, training data first.

    Bare dataloaders are looked through (lists, dicts, `CombinedLoader`, `Subset`); of a datamodule
    the attributes `train_dataset`, `val_dataset`, `test_dataset` and `predict_dataset` are read.

    Args:
        trainer: A Trainer that was handed its data, so from `setup` on.

    Returns:
        The datasets, each one once.
    """
    found = {id(d): d for data in loop_data(trainer) for d in _policy_datasets(data)}
    return list(found.values())


def _policy_datasets(data: object) -> Iterator[PolicyDataset]:
    if isinstance(data, PolicyDataset):
        yield data
        return
    parts: Iterable[object] = ()
    if isinstance(data, LightningDataModule):
        stages = ("train", "val", "test", "predict")
        parts = [getattr(data, f"{stage}_dataset", None) for stage in stages]
    elif isinstance(data, DataLoader | Subset):
        parts = [data.dataset]
    elif isinstance(data, CombinedLoader):
        parts = [data.iterables]
    elif isinstance(data, Mapping):
        parts = data.values()
    elif isinstance(data, list | tuple):
        parts = data
    for part in parts:
        yield from _policy_datasets(part)
