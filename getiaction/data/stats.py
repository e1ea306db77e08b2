"""Statistics for normalisation: aggregated over episodes, and safe to divide by."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from getiaction.data.depth import DepthUnit, is_depth, stored_unit, unit_factor
from getiaction.data.errors import DatasetError

FeatureStats = dict[str, Any]
STATS = ("mean", "std", "min", "max")

# Statistics of ImageNet's training set for each RGB channel, as in the transforms of torchvision's
# classification models: https://pytorch.org/vision/stable/models.html.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MIN_STD_OF_RANGE = 1e-2
MIN_RANGE_OF_MAGNITUDE = 1e-4


def aggregate_stats(episodes: Sequence[dict[str, FeatureStats]]) -> dict[str, FeatureStats]:
    """Aggregate the statistics of episodes into the statistics of all their frames.

    The variance of a union is the count-weighted mean of the variances, plus the count-weighted
    mean of the squared distances of the means from the overall mean (Chan et al. 1979, "Updating
    formulae and a pairwise algorithm for computing sample variances").

    Args:
        episodes: Statistics of each episode: for each feature key the lists "min", "max", "mean",
            "std" and "count".

    Returns:
        The arrays "min", "max", "mean" and "std" of each feature by key.
    """
    joined = {}
    for key in sorted({key for episode in episodes for key in episode}):
        parts = [episode[key] for episode in episodes if key in episode]
        # An episode without frames has no statistics.
        parts = [part for part in parts if np.ravel(part["count"])[0] > 0] or parts
        low, high, means, stds = (
            np.array([part[name] for part in parts], dtype=np.float64)
            for name in ("min", "max", "mean", "std")
        )
        counts = np.array([np.ravel(part["count"])[0] for part in parts], dtype=np.float64)
        weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
        mean = (weights * means).sum(axis=0)
        variance = (weights * (stds**2 + (means - mean) ** 2)).sum(axis=0)
        joined[key] = {
            "min": low.min(axis=0),
            "max": high.max(axis=0),
            "mean": mean,
            "std": np.sqrt(variance),
        }
    return joined


def floor_std(
    std: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Raise standard deviations that are too small to divide by.

    The original ACT clips standard deviations at 1e-2
    (https://github.com/tonyzhaozh/act/blob/main/utils.py), which suits radians but not every unit:
    here they are at least 1e-2 of the range of their dimension. A dimension whose range is below
    1e-4 of its magnitude is constant up to noise; it gets 1.0, as in scikit-learn's StandardScaler,
    so that a small change of it later is not amplified.

    Args:
        std: Standard deviations, an array of any shape.
        low: Minima, an array of the same shape as `std`.
        high: Maxima, an array of the same shape as `std`.

    Returns:
        Standard deviations to divide by, of the same shape and all positive.
    """
    span = high - low
    constant = span <= MIN_RANGE_OF_MAGNITUDE * np.maximum(np.abs(low), np.abs(high))
    return np.where(constant, 1.0, np.maximum(std, MIN_STD_OF_RANGE * span))


def channel_first_shape(feature: dict[str, Any]) -> list[int]:
    """Return a camera's shape as [C, H, W].

    Datasets declare cameras as (H, W, C) or (C, H, W), with or without axis names.

    Args:
        feature: Description of a camera, as in `meta/info.json`.

    Returns:
        [C, H, W] in pixels; C is 1 for depth cameras, and 3 for other videos, because their
        frames are decoded to RGB.
    """
    shape, axes = list(feature["shape"]), str(feature.get("names"))
    first, last = shape[0] in {1, 3, 4}, shape[-1] in {1, 3, 4}
    if first and last:
        first = axes.find("channel") < axes.find("height")
    channels, height, width = shape if first else (shape[2], shape[0], shape[1])
    if is_depth(feature):
        channels = 1
    elif feature["dtype"] == "video":
        channels = 3
    return [channels, height, width]


def policy_stats(
    features: dict[str, dict[str, Any]],
    stored: dict[str, FeatureStats],
    columns: dict[str, NDArray[Any]],
    rows: NDArray[np.int64],
    *,
    use_imagenet_stats: bool,
    depth_unit: DepthUnit,
    sample_camera: Callable[[str], NDArray[np.float32]],
) -> dict[str, FeatureStats]:
    """Collect what a policy is built from: type, shape and statistics of each feature.

    Args:
        features: Description of each feature by key, as in `meta/info.json`.
        stored: Statistics of each feature by key, as stored in the dataset; may be incomplete.
        columns: Rows of each numeric feature by key, (N, *shape), from which statistics are
            computed where `stored` has none that fit.
        rows: Numbers of the rows to compute them from.
        use_imagenet_stats: Whether RGB cameras get ImageNet's mean and std instead of the stored
            ones, which are wrong in every v3.0 dataset written by lerobot before 0.6.0
            (https://github.com/huggingface/lerobot/issues/3682).
        depth_unit: Unit of the statistics of depth cameras, "mm" or "m".
        sample_camera: Returns some images of a camera by its key, (N, C, H, W), from which
            statistics are computed where `stored` has none and ImageNet's do not apply.

    Returns:
        For each "observation.*" and "action" key, plain Python values: "type" ("VISUAL", "STATE",
        "ENV" or "ACTION"), "shape" ([C, H, W] for cameras), and "mean", "std", "min" and "max" as
        nested lists of that shape ([C][1][1] for cameras).

    Raises:
        DatasetError: A camera has no usable statistics, or statistics are not finite.
    """
    described = {}
    for key, feature in features.items():
        if key != "action" and not key.startswith("observation."):
            continue
        is_camera = feature["dtype"] in {"video", "image"}
        if not is_camera and key not in columns:
            continue  # texts have no statistics
        shape = channel_first_shape(feature) if is_camera else list(feature["shape"])
        use_imagenet = use_imagenet_stats and is_camera and shape[0] == len(IMAGENET_MEAN)
        values = _stored_values(stored.get(key, {}), [shape[0], 1, 1] if is_camera else shape)
        if values is not None:
            if is_depth(feature):
                values = _in_unit(values, key, feature, depth_unit)
        elif use_imagenet:
            values = {"min": np.zeros((3, 1, 1)), "max": np.ones((3, 1, 1))}
        elif is_camera:
            values = _camera_values(key, shape[0], sample_camera)
        else:
            values = _row_values(columns[key][rows].astype(np.float64).reshape(-1, *shape))
        if use_imagenet:
            values["mean"] = np.reshape(IMAGENET_MEAN, (3, 1, 1))
            values["std"] = np.reshape(IMAGENET_STD, (3, 1, 1))
        if not all(np.isfinite(value).all() for value in values.values()):
            msg = (
                f'"{key}" holds numbers that are not finite, in every row of a dimension. Correct '
                "the data, or remove the feature from meta/info.json."
            )
            raise DatasetError(msg)
        values["std"] = floor_std(values["std"], values["min"], values["max"])
        described[key] = {
            "type": _kind(key, is_camera=is_camera),
            "shape": shape,
            **{name: values[name].tolist() for name in STATS},
        }
    return described


def _stored_values(stored: FeatureStats, shape: list[int]) -> dict[str, NDArray[np.float64]] | None:
    """Return stored statistics in the shape of their feature; None if they are missing or unfit."""
    try:
        values = {name: np.asarray(stored[name], dtype=np.float64) for name in STATS}
        # For a matrix, lerobot stores one number per column.
        fitted = {name: np.broadcast_to(value, shape) for name, value in values.items()}
    except (KeyError, TypeError, ValueError):
        return None
    return fitted if all(np.isfinite(value).all() for value in fitted.values()) else None


def _in_unit(
    values: dict[str, NDArray[np.float64]], key: str, feature: dict[str, Any], unit: DepthUnit
) -> dict[str, NDArray[np.float64]]:
    """Convert the stored statistics of a depth camera to the unit of its images."""
    if feature["dtype"] == "video" and stored_unit(feature) is None:
        rank_zero_warn(
            f'meta/info.json has no depth_unit for "{key}". Its images are in {unit}, and its'
            " stored statistics are assumed to be too. Write the unit of the recording into the"
            ' info of the feature: "depth_unit": "mm" or "m"'
        )
    factor = unit_factor(feature, unit)
    return {name: value * factor for name, value in values.items()}


def _camera_values(
    key: str, n_channels: int, sample_camera: Callable[[str], NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    """Compute the statistics of a camera whose stored ones are missing."""
    if n_channels == len(IMAGENET_MEAN):
        msg = (
            f'meta/ has no usable statistics of camera "{key}". '
            "Pass use_imagenet_stats=True, or add them to the dataset."
        )
        raise DatasetError(msg)
    images = sample_camera(key)
    pixels = np.moveaxis(images, 1, 0).reshape(images.shape[1], -1).astype(np.float64)
    return {name: getattr(pixels, name)(axis=1).reshape(-1, 1, 1) for name in STATS}


def _row_values(rows: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Compute the statistics of the rows over the numbers that are finite."""
    finite = np.isfinite(rows)
    kept = np.where(finite, rows, np.nan)
    if finite.all() or not finite.any(axis=0).all():
        return {name: getattr(kept, name)(axis=0) for name in STATS}
    return {name: getattr(np, f"nan{name}")(kept, axis=0) for name in STATS}


def _kind(key: str, *, is_camera: bool) -> str:
    if is_camera:
        return "VISUAL"
    if key == "action":
        return "ACTION"
    return "ENV" if key == "observation.environment_state" else "STATE"
