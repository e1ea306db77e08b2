"""Weights that a first step has made NaN, and what in its batch was NaN before."""

from collections.abc import Iterator, Mapping
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.trial.kept import MOST_BYTES, bytes_of
from getiaction_launch.checking.weights.nan import any_nan


def is_lost(model: Any) -> bool:  # noqa: ANN401 - a LightningModule
    """Return whether training has made a weight NaN, which it then stays.

    Args:
        model: The model that has trained.
    """
    return any_nan(_weights(model))


def can_judge(built: Built) -> bool:
    """Return whether a model can be tried once more from its first weights, and as in the run.

    Args:
        built: What has been tried. With a precision of float16 a run leaves out such a step.
    """
    is_scaled = str(built.arguments.get("precision")) in {"16", "16-mixed"}
    is_kept = bytes_of(_weights(built.model)) <= MOST_BYTES
    return is_kept and not is_scaled and bool(built.model.automatic_optimization)


def nan_in(batch: object, name: str = "batch") -> Iterator[str]:
    """Yield what of a batch is NaN: columns that are so in each sample, or whole tensors.

    Args:
        batch: A tensor, or what holds some.
        name: What to call it.
    """
    import torch

    if isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from nan_in(value, f"{name}[{key!r}]")
    elif isinstance(batch, (list, tuple)):
        for number, value in enumerate(batch):
            yield from nan_in(value, f"{name}[{number}]")
    elif isinstance(batch, torch.Tensor) and batch.is_floating_point() and batch.isnan().any():
        rows = batch.isnan().reshape(-1, batch.shape[-1] if batch.dim() else 1)
        columns = rows.all(0).nonzero().flatten().tolist()
        yield f"{name}[..., {columns[0]}]" if 0 < len(columns) < rows.shape[1] else name


def _weights(model: Any) -> list[Any]:  # noqa: ANN401 - as above
    from torch.nn.parameter import is_lazy

    return [each for each in model.parameters() if not is_lazy(each)]
