"""The split of a dataset's episodes into training and validation, the same on every rank."""

import random
from collections.abc import Sequence

from getiaction.data.errors import DatasetError
from getiaction.data.metadata import Metadata
from getiaction.data.source import check_episodes


def split_episodes(
    metadata: Metadata, episodes: Sequence[int] | None, val_split: float, seed: int
) -> tuple[list[int], list[int]]:
    """Hold out whole episodes for validation.

    Args:
        metadata: Metadata of the dataset.
        episodes: Indices of the episodes to split; None splits all.
        val_split: Fraction of the episodes to hold out, in (0, 1).
        seed: Seed that decides which ones.

    Returns:
        Indices of the episodes to train on, and of those that are held out, both sorted.

    Raises:
        DatasetError: An episode does not exist, or none is left for training.
    """
    check_episodes(metadata, episodes)
    given = metadata.episodes if episodes is None else episodes
    chosen = sorted(e for e in given if metadata.episodes[e].length)
    num_val = max(1, int(len(chosen) * val_split))
    if num_val >= len(chosen):
        msg = (
            f"val_split={val_split} leaves no training episode of {len(chosen)}. "
            "Use val_split=0, or more episodes."
        )
        raise DatasetError(msg)
    # A generator of its own, because the global ones may be seeded differently on each rank.
    held_out = set(random.Random(seed).sample(chosen, num_val))  # noqa: S311 - not a secret
    return [e for e in chosen if e not in held_out], sorted(held_out)
