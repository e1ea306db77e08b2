"""Which samples a rank holds out, and which it trains on, as far as they are cheap to read."""

import contextlib
import time
from typing import Any

from getiaction_launch.checking.loading.batches import hash_of
from getiaction_launch.checking.loading.loaders import Loaders

_MOST = 2000
"""Most samples of a dataset that are read."""
_SECONDS = 0.4
"""How long that may take for each dataset."""


def divided_by(loaders: Loaders) -> dict[str, list[str]]:
    """Return a hash of each sample that is trained, and of those that are held out.

    Args:
        loaders: The loaders of a rank that has trained.

    Returns:
        Hashes by ``trained`` and ``held_out``; none of a dataset that is not read to its end.
    """
    held_out = loaders.newest.get("val_dataloader")
    if isinstance(held_out, (list, tuple)):
        held_out = next(iter(held_out), None)
    parts = {"trained": loaders.newest.get("train_dataloader"), "held_out": held_out}
    return {name: _hashes(getattr(loader, "dataset", None)) for name, loader in parts.items()}


def leaking(mine: dict[str, list[str]], theirs: dict[str, list[str]]) -> int:
    """Return how many samples one rank holds out, and does not train on, as the other one does.

    Args:
        mine: What ``divided_by`` has returned on one rank.
        theirs: What it has returned on the other one.
    """
    parts = [{name: {*each} for name, each in one.items()} for one in (mine, theirs)]
    if not all(each["trained"] and each["held_out"] for each in parts):
        return 0
    return max(
        len((one["held_out"] & other["trained"]) - one["trained"])
        for one, other in (parts, parts[::-1])
    )


def _hashes(dataset: Any) -> list[str]:  # noqa: ANN401 - of any kind
    from torch.utils.data import IterableDataset

    found, begun = list[str](), time.monotonic()
    if dataset is None or isinstance(dataset, IterableDataset):
        return []
    with contextlib.suppress(Exception):  # whatever the user's classes raise
        if len(dataset) > _MOST:
            return []
        for index in range(len(dataset)):
            found.append(hash_of(_alone(dataset[index])) or "")
            if time.monotonic() - begun > _SECONDS:
                return []
        return [] if "" in found else found
    return []


def _alone(sample: Any) -> Any:  # noqa: ANN401 - of any kind
    """Return a sample whose tensors share no memory with others, which would be hashed, too."""
    import torch
    from lightning_utilities.core.apply_func import apply_to_collection

    return apply_to_collection(sample, torch.Tensor, torch.clone)
