"""The global random number generators of this process: Python's, NumPy's, torch's and CUDA's."""

import random
from typing import Any, TypedDict

import numpy as np
import torch


class RandomState(TypedDict):
    """The states of all generators, under the names of the libraries that own them."""

    torch: torch.Tensor
    cuda: torch.Tensor | None
    numpy: tuple[Any, ...]
    python: tuple[Any, ...]


def random_state(device: torch.device) -> RandomState:
    """Return the state of all generators, as data that loads with ``weights_only=True``.

    Args:
        device: The accelerator that this process trains on, whose generator is included.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - users draw from it
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": (kind, torch.tensor(np.asarray(keys, np.int64)), *rest),
        "python": random.getstate(),
    }


def set_random_state(state: RandomState) -> None:
    """Set all generators to a state that :func:`random_state` has returned."""
    kind, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002 - as above
    random.setstate(state["python"])
