"""Normalisation of observations and actions by the statistics of a dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from getiaction.data.stats import IMAGENET_MEAN, IMAGENET_STD

# A feature that hardly changes must not be amplified. Stored image statistics can be wrong by a
# factor of 200 (huggingface/lerobot#3682); the std of a real camera is always larger than this.
IMAGE_STD_FLOOR = 1e-2
STD_FLOOR = 1e-4


def policy_stats(
    dataset_stats: Mapping[str, Mapping[str, Any]], *, use_imagenet_stats: bool
) -> dict[str, dict[str, Any]]:
    """Choose the statistics that a policy normalises with.

    Args:
        dataset_stats: "type", "shape", "mean" and "std" of each feature by key, as numbers, lists
            or arrays.
        use_imagenet_stats: Whether to use ImageNet's mean and std for cameras with three channels.

    Returns:
        The same four entries of each feature as plain Python values, so that checkpoints with them
        load with weights_only=True. Every std is at least 1e-2 for images and 1e-4 for others.

    Raises:
        ValueError: A feature has no type or no shape.
    """
    stats: dict[str, dict[str, Any]] = {}
    for key, feature in dataset_stats.items():
        if "type" not in feature or "shape" not in feature:
            message = f"dataset_stats[{key!r}] lacks 'type' or 'shape'\n"
            message += "dataset_stats=LeRobotDataset(...).stats"
            raise ValueError(message)
        shape = [int(size) for size in feature["shape"]]
        chosen = {"type": str(feature["type"]), "shape": shape}
        visual = chosen["type"] == "VISUAL"
        if visual and use_imagenet_stats and shape[0] == len(IMAGENET_MEAN):
            chosen |= {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
        elif "mean" in feature and "std" in feature:
            mean, std = (torch.as_tensor(feature[name]).double() for name in ("mean", "std"))
            std = std.clamp(min=IMAGE_STD_FLOOR if visual else STD_FLOOR)
            chosen |= {"mean": mean.tolist(), "std": std.tolist()}
        stats[key] = chosen
    return stats


def refuse_imagenet_stats(dataset_stats: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a dataset has statistics of its own, and not ImageNet's in their place.

    Args:
        dataset_stats: "type", "shape", "mean" and "std" of each feature by key.

    Raises:
        ValueError: The mean of a camera equals ImageNet's.
    """
    for key, feature in dataset_stats.items():
        if feature["type"] != "VISUAL" or "mean" not in feature:
            continue
        mean = torch.as_tensor(feature["mean"]).flatten().double()
        imagenet = torch.tensor(IMAGENET_MEAN, dtype=mean.dtype)
        if mean.shape == imagenet.shape and torch.allclose(mean, imagenet, atol=1e-6):
            message = (
                f"ACT has use_imagenet_stats=False, but the dataset has ImageNet's statistics for "
                f"{key}\nset LeRobotDataModule(use_imagenet_stats=False) too"
            )
            raise ValueError(message)


class Normalizer(nn.Module):
    """Scales features to zero mean and unit standard deviation, and back.

    Mean and std are buffers, so checkpoints contain them.

    Args:
        stats: "type", "shape", "mean" and "std" of each feature by key. Images have one mean and
            std per channel, other features one per element; a feature without them is not scaled.

    Raises:
        ValueError: The statistics of a feature do not have its shape.
    """

    def __init__(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__()
        for key, feature in stats.items():
            shape = list(feature["shape"])
            if feature["type"] == "VISUAL":
                shape = [shape[0], 1, 1]
            for name, neutral in (("mean", 0.0), ("std", 1.0)):
                value = torch.full(shape, neutral)
                if name in feature:
                    value = torch.tensor(feature[name], dtype=torch.float32)
                if value.numel() != math.prod(shape):
                    message = (
                        f"{key}: a {name} of shape {list(value.shape)} does not fit the feature's "
                        f"shape {list(feature['shape'])}\ncompute the dataset's statistics again"
                    )
                    raise ValueError(message)
                self.register_buffer(f"{_name(key)}_{name}", value.reshape(shape))

    def normalize(self, key: str, value: Tensor) -> Tensor:
        """Subtract the mean and divide by the std.

        Args:
            key: Key of the feature, such as "observation.state".
            value: Values in the dataset's units, (..., *shape).

        Returns:
            Normalised values of the same shape.
        """
        name = _name(key)
        return (value - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")

    def denormalize(self, key: str, value: Tensor) -> Tensor:
        """Multiply by the std and add the mean.

        Args:
            key: Key of the feature, such as "action".
            value: Values that are normalised, (..., *shape).

        Returns:
            Values of the same shape in the dataset's units.
        """
        name = _name(key)
        return value * self.get_buffer(f"{name}_std") + self.get_buffer(f"{name}_mean")


def _name(key: str) -> str:
    # The name of a buffer must not contain a dot.
    return key.replace(".", "_")
