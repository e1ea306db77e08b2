"""What a try of a model changes in it, for the next try to begin as the run would."""

import copy
from collections.abc import Iterable, Iterator
from typing import Any

MOST_BYTES = 512 << 20
"""Weights that are kept twice without being asked for."""
_PLAIN = (list, dict, set, tuple, str, int, float, bool, type(None))
"""Types of the attributes of which a copy is kept."""


class Kept:
    """Weights, buffers and plain attributes, as they are when this is made.

    Args:
        model: The LightningModule that is tried.
        callbacks: The callbacks that take part.
    """

    def __init__(self, model: Any, callbacks: Iterable[object]) -> None:  # noqa: ANN401 - as above
        self._model = model
        self._values = list(_plain_values([model, *callbacks]))
        self._tensors = list(_tensors(model))

    def restore(self) -> None:
        """Have all of it as it was, and metrics as if nothing was measured."""
        from torchmetrics import Metric

        for owner, name, value in self._values:
            setattr(owner, name, copy.copy(value))
        for tensor, values, requires_grad in self._tensors:
            tensor.data = values.clone()
            tensor.requires_grad_(requires_grad)
        for each in self._model.modules():
            if isinstance(each, Metric):
                each.reset()


def bytes_of(tensors: Iterable[Any]) -> int:
    """Return how many bytes tensors have together.

    Args:
        tensors: Weights or buffers of any shapes.
    """
    return sum(each.numel() * each.element_size() for each in tensors)


def _plain_values(owners: Iterable[object]) -> Iterator[tuple[object, str, object]]:
    for owner in owners:
        for name, value in vars(owner).items():
            if type(value) in _PLAIN and not name.startswith("_"):
                yield owner, name, copy.copy(value)


def _tensors(model: Any) -> Iterator[tuple[Any, Any, bool]]:  # noqa: ANN401 - as above
    """Yield weights and buffers with copies, and whether they need gradients."""
    from torch.nn.parameter import is_lazy

    found = [each for each in (*model.parameters(), *model.buffers()) if not is_lazy(each)]
    if bytes_of(found) > MOST_BYTES:
        return
    for each in found:
        yield each, each.detach().clone(), each.requires_grad
