"""How a batch gets from a loader process to its parent: its numbers in one shared block."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

# What somebody keeps of a batch keeps the whole block, so large tensors have memory of their own.
MAX_BYTES = 2**20
ALIGNMENT_BYTES = 64


def share_in_one_block(batch: dict[str, Any]) -> dict[str, Any]:
    """Move the small tensors of a batch to one block of shared memory, if this is a loader process.

    torch sends each storage to the parent process as a file of its own, over a connection that is
    opened and authenticated for it. For small pictures, that takes more CPU time than decoding does
    (`benchmarks/small_pictures.py`). Tensors of one storage are sent together.

    Args:
        batch: Tensors and other values by key.

    Returns:
        The same batch with the same numbers, and its keys in the same order.
    """
    if get_worker_info() is None:
        return batch
    places, size = {}, 0
    for key, value in batch.items():
        # Subclasses, and whatever transforms return, are left to torch.
        if type(value) is Tensor and value.is_contiguous() and 0 < value.nbytes <= MAX_BYTES:
            places[key] = size
            size += -(-value.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    if not places:
        return batch
    block = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call] # noqa: SLF001 - nothing public allocates shared memory
    moved = {}
    for key, start in places.items():
        value = batch[key]
        place = torch.empty(0, dtype=value.dtype)
        place.set_(block, start // value.element_size(), value.shape, value.stride())
        moved[key] = place.copy_(value)
    return batch | moved
