"""Normalisation of observations and actions by the statistics of a dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from getiaction.data.stats import IMAGENET_MEAN, IMAGENET_STD

# A feature that hardly moves must not be blown up. Image statistics on disk can be wrong by a
# factor of 200 (huggingface/lerobot#3682); no real camera has a smaller std than this.
IMAGE_STD_FLOOR = 1e-2
STD_FLOOR = 1e-4


def policy_stats(
    dataset_stats: Mapping[str, Mapping[str, Any]], *, use_imagenet_stats: bool
) -> dict[str, dict[str, Any]]:
    """Choose the statistics that a policy normalises by.

    Args:
        dataset_stats: Per feature "type", "shape", "mean" and "std"; numbers, lists or arrays.
        use_imagenet_stats: Take ImageNet's mean and std for cameras with three channels.

    Returns:
        The same four entries per feature in plain Python, so that checkpoints that hold them load
        with weights_only=True; each std is at or above a floor.

    Raises:
        ValueError: A feature lacks its type or shape.
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
    """Do not take ImageNet's statistics for a dataset's own.

    Args:
        dataset_stats: As for `policy_stats`.

    Raises:
        ValueError: A camera has ImageNet's mean.
    """
    for key, feature in dataset_stats.items():
        if feature["type"] != "VISUAL" or "mean" not in feature:
            continue
        mean = torch.as_tensor(feature["mean"]).flatten().double()
        imagenet = torch.tensor(IMAGENET_MEAN, dtype=mean.dtype)
        if mean.shape == imagenet.shape and torch.allclose(mean, imagenet, atol=1e-6):
            message = (
                f"ACT(use_imagenet_stats=False), but the dataset gives ImageNet's statistics of "
                f"{key}\nLeRobotDataModule(use_imagenet_stats=False) too"
            )
            raise ValueError(message)


class Normalizer(nn.Module):
    """Maps features to zero mean and unit standard deviation, and back.

    Mean and std are buffers, so a checkpoint carries them.

    Args:
        stats: Per feature "type", "shape" and, unless it shall stay as it is, "mean" and "std",
            with one value per channel of an image and per element of anything else.

    Raises:
        ValueError: Statistics do not have the shape of their feature.
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
            key: The feature's key, such as "observation.state".
            value: (..., *shape) in the dataset's units.

        Returns:
            The same shape, without unit.
        """
        name = _name(key)
        return (value - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")

    def denormalize(self, key: str, value: Tensor) -> Tensor:
        """Undo `normalize`.

        Args:
            key: The feature's key, such as "action".
            value: (..., *shape), normalised.

        Returns:
            The same shape in the dataset's units.
        """
        name = _name(key)
        return value * self.get_buffer(f"{name}_std") + self.get_buffer(f"{name}_mean")


def _name(key: str) -> str:
    # A buffer's name must not hold a dot.
    return key.replace(".", "_")
