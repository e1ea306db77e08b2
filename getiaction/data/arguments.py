"""Arguments of datasets and datamodules that are checked before any row is read."""

import math
import operator
import os
from collections.abc import Mapping, Sequence
from typing import get_args

from getiaction.data.depth import MILLIMETRES
from getiaction.data.errors import DatasetError
from getiaction.data.rows import NonFinite


def check_given(repo_id: str | None, root: str | os.PathLike[str] | None) -> None:
    """Check that a dataset is named.

    Args:
        repo_id: Argument of `LeRobotDataModule` of that name.
        root: Argument of `LeRobotDataModule` of that name.

    Raises:
        DatasetError: Neither of them is given.
    """
    if repo_id is None and root is None:
        msg = 'no dataset given. Pass repo_id="lerobot/pusht" or root="/path/to/dataset".'
        raise DatasetError(msg)


def check_counts(val_split: float, num_workers: int | str, **batch_sizes: int | None) -> None:
    """Check the numbers that a datamodule is given.

    Args:
        val_split: Argument of `LeRobotDataModule` of that name.
        num_workers: Argument of `LeRobotDataModule` of that name.
        **batch_sizes: Numbers of samples by the name of their argument; None is not checked.

    Raises:
        DatasetError: A number is out of range.
    """
    if not 0 <= val_split < 1:
        msg = (
            f"val_split must be in [0, 1), got {val_split}. Use val_split=0.1 to hold out a "
            "tenth of the episodes."
        )
        raise DatasetError(msg)
    for name, size in batch_sizes.items():
        if size is not None and size < 1:
            msg = f"{name} must be at least 1, got {size}."
            raise DatasetError(msg)
    if not isinstance(num_workers, str) and num_workers < 0:
        msg = f'num_workers must be at least 0 or "auto", got {num_workers}.'
        raise DatasetError(msg)


def check_frames(num_frames: int, num_ranks: int, train_batch_size: int) -> None:
    """Check that every rank has frames for a batch.

    Args:
        num_frames: Number of training frames.
        num_ranks: Number of ranks that share them.
        train_batch_size: Argument of `LeRobotDataModule` of that name.

    Raises:
        DatasetError: There are too few frames.
    """
    if math.ceil(num_frames / num_ranks) < train_batch_size:
        msg = (
            f"{num_frames} training frames are too few for a batch of train_batch_size="
            f"{train_batch_size} on each of {num_ranks} ranks. Use train_batch_size="
            f"{max(1, num_frames // num_ranks)} or less, more episodes, or fewer ranks."
        )
        raise DatasetError(msg)


def plain_episodes(episodes: Sequence[int]) -> list[int]:
    """Convert a range, array or list of episode indices to a list of Python integers.

    Args:
        episodes: Sequence of integers, NumPy's included.

    Returns:
        The same indices as plain integers, which YAML and checkpoints can hold.

    Raises:
        DatasetError: An element is not an integer.
    """
    try:
        return [operator.index(episode) for episode in episodes]
    except TypeError as error:
        msg = f"episodes must be a list of episode indices, got {episodes!r}. Use [0, 1, 2]."
        raise DatasetError(msg) from error


def plain_deltas(deltas: Mapping[str, Sequence[float]] | None) -> dict[str, list[float]] | None:
    """Convert offsets in seconds to plain lists of floats, which YAML and checkpoints can hold.

    Args:
        deltas: Offsets by feature key, or None.
    """
    if deltas is None:
        return None
    return {key: [float(delta) for delta in each] for key, each in deltas.items()}


def plain_size(image_size: Sequence[int] | None) -> list[int] | None:
    """Convert the size of images to a list of Python integers.

    Args:
        image_size: Height and width in pixels, or None.

    Returns:
        The same numbers as plain integers, which YAML and checkpoints can hold.

    Raises:
        DatasetError: They are not two positive integers.
    """
    try:
        size = None if image_size is None else [operator.index(side) for side in image_size]
    except TypeError:
        size = []
    if size is not None and (len(size) != 2 or min(size) < 1):  # noqa: PLR2004 - height and width
        msg = f"image_size must be a height and a width in pixels, got {image_size!r}. "
        msg += "Use [384, 384]."
        raise DatasetError(msg)
    return size


def check_options(depth_output_unit: str, non_finite: str) -> None:
    """Check arguments that have only a few values.

    Args:
        depth_output_unit: Argument of `LeRobotDataset` of that name.
        non_finite: Argument of `LeRobotDataset` of that name.

    Raises:
        DatasetError: A value is not one of the known ones.
    """
    for name, value, known in (
        ("depth_output_unit", depth_output_unit, list(MILLIMETRES)),
        ("non_finite", non_finite, list(get_args(NonFinite))),
    ):
        if value not in known:
            msg = f"{name} must be one of {known}, got {value!r}."
            raise DatasetError(msg)


def to_offsets(
    delta_timestamps: Mapping[str, Sequence[float]], fps: float, tolerance_s: float
) -> dict[str, list[int]]:
    """Convert offsets in seconds to offsets in frames.

    Args:
        delta_timestamps: Offsets in seconds by feature key.
        fps: Frames per second of the recording.
        tolerance_s: Largest difference from a multiple of 1/fps, in seconds.

    Returns:
        Offsets in frames by feature key.

    Raises:
        DatasetError: An offset is not a multiple of 1/fps.
    """
    for key, deltas in delta_timestamps.items():
        odd = [d for d in deltas if not math.isfinite(d)]
        if odd:
            msg = f'delta_timestamps["{key}"]: {odd} are not offsets. Use seconds such as [0.0].'
            raise DatasetError(msg)
        off = [d for d in deltas if abs(d - round(d * fps) / fps) > tolerance_s]
        if off:
            msg = (
                f'delta_timestamps["{key}"]: {off} are not multiples of 1/fps = '
                f"{1 / fps:.6g} s within tolerance_s={tolerance_s}. "
                f"Use {[round(d * fps) / fps for d in off]}."
            )
            raise DatasetError(msg)
    return {k: [round(d * fps) for d in deltas] for k, deltas in delta_timestamps.items()}
