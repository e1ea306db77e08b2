"""Arguments of datasets and datamodules that are checked before anything is read."""

import operator
from collections.abc import Sequence
from typing import get_args

from getiaction.data.depth import MILLIMETRES
from getiaction.data.errors import DatasetError
from getiaction.data.rows import NonFinite


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
