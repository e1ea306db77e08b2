"""Loaders of a program that have samples, and no batch of them: nothing is trained on these."""

import sys
from typing import Any

from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.frames import own_call
from getiaction_launch.checking.loading.batches import length_of
from getiaction_launch.checking.weights.hidden import optimizers_here

_FOLLOWS = (ZeroDivisionError, UnboundLocalError, StopIteration)
"""What a program raises that averages over no batch, or asks for the next one."""


class Empty:
    """What a program reads that has no batch, as long as nothing else has one.

    Attributes:
        has_batches: Whether anything has been read or trained on.
        is_sure: Whether as many ranks are tried as the run has, so that each has as many samples.
    """

    def __init__(self) -> None:
        self.has_batches = False
        self.is_sure = True
        self._found: tuple[str, str, str] | None = None

    def look(self, loader: Any) -> None:  # noqa: ANN401 - a DataLoader
        """Keep where a loader without a batch is read to train on it.

        Args:
            loader: The loader, whose reading begins.
        """
        import torch

        if self.has_batches or length_of(loader) != 0 or not torch.is_grad_enabled():
            return
        number, total = length_of(loader.sampler), length_of(loader.dataset)
        place = own_call(sys._getframe(1))  # noqa: SLF001 - nothing has been raised
        if number is None or not total or place is None or not optimizers_here():
            return
        what = f"{number} of {total} samples are this rank's, so it has no batch"
        fix = "More samples for each rank"
        if loader.batch_size is not None and number:
            what += f" of batch_size={loader.batch_size} with drop_last=True"
            fix = f"Set drop_last=False, or batch_size={number} at most, or use more samples"
        self._found = shown(place), what, fix

    def finding(self, error: BaseException) -> Finding | None:
        """Return what is wrong if a program has ended that has read no batch.

        Args:
            error: What has ended it.
        """
        is_end = isinstance(error, SystemExit) and error.code in (None, 0)
        if self._found is None or self.has_batches or not (is_end or isinstance(error, _FOLLOWS)):
            return None
        place, what, fix = self._found
        judged = refusal if self.is_sure else doubt
        trained = "the program ends without an optimizer step"
        return judged("training", place.partition(" ")[0], f"{place}: {what}: {trained}.", fix)
