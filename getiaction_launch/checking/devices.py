"""Stand-ins for GPUs that this machine lacks, so that a Trainer for them can be built here."""

import contextlib
from collections.abc import Iterator

from getiaction_launch.checking.replacing import replacing


@contextlib.contextmanager
def standing_in(number: int) -> Iterator[None]:
    """Have torch count so many GPUs meanwhile; none of them can be used.

    Args:
        number: How many GPUs the worker's machine has; with 0, none of this machine's are seen.
    """
    import torch

    with replacing(torch.cuda, device_count=lambda: number, is_available=lambda: number > 0):
        yield
