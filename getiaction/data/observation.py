"""The interface between policies and datasets, and how to find a Trainer's datasets."""

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
        stats: Type, shape and statistics of each "observation.*" and "action" feature by key, as
            plain Python values: "type" is "VISUAL", "STATE", "ENV" or "ACTION"; "shape" is a list,
            [C, H, W] for images; "mean", "std", "min" and "max" are nested lists of that shape,
            [C][1][1] for images.
        features: LeRobot's description of each feature by key ("dtype", "shape", "names").
        fps: Frames per second of the recording.
        delta_indices: Frame offsets that a sample stacks, by feature key, relative to the sample's
            own frame. A key that is absent has that frame alone; so has every key if it is None.
            The attribute can be set.
    """

    delta_indices: dict[str, list[int]] | None

    @property
    def stats(self) -> dict[str, dict[str, Any]]: ...  # noqa: D102 - described in the class

    @property
    def features(self) -> dict[str, dict[str, Any]]: ...  # noqa: D102 - described in the class

    @property
    def fps(self) -> float: ...  # noqa: D102 - described in the class


def find_policy_dataset(trainer: Trainer) -> PolicyDataset | None:
    """Find the dataset that a policy is built for, which is the training dataset if there is one.

    Args:
        trainer: Trainer that has been given its data, as it has in `setup` and later.

    Returns:
        The first of `find_policy_datasets`, or None if there is none.
    """
    return next(iter(find_policy_datasets(trainer)), None)


def find_policy_datasets(trainer: Trainer) -> list[PolicyDataset]:
    """Find every `PolicyDataset` that the Trainer was given, training data first.

    Dataloaders are searched through lists, dicts, `CombinedLoader` and `Subset`; a datamodule is
    searched in `train_dataset`, `val_dataset`, `test_dataset` and `predict_dataset`.

    Args:
        trainer: Trainer that has been given its data, as it has in `setup` and later.

    Returns:
        The datasets in the order in which they were found, without duplicates.
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
