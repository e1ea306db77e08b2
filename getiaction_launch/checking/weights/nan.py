"""Weights that are NaN after the first step of an optimizer, which nothing mends any more."""

import re
from collections.abc import Iterable
from typing import Any

from getiaction_launch.checking.finding import Finding, doubt, refusal

_JUDGES = re.compile(r"is_?nan|is_?finite|is_?inf", re.IGNORECASE)
"""How source says that it looks for NaN, and may put back what was there before."""
_DIVISORS = re.compile(r"(std|scale|sigma|var|range|span|norm)\w*$")
"""How the names of what is divided by end."""
_FIX = "Look for NaN in the data, and for a division by zero, as in (x - mean) / (std + 1e-6)"


def looks_for_nan(text: str) -> bool:
    """Return whether source looks for NaN itself.

    Args:
        text: The source of a program, or of a class.
    """
    return bool(_JUDGES.search(text))


def has_nan(optimizer: Any) -> bool:  # noqa: ANN401 - one of torch
    """Return whether an optimizer has stepped weights to NaN.

    Args:
        optimizer: The optimizer that has just made a step.
    """
    from torch import Tensor
    from torch.nn import Parameter

    weights = (each for group in optimizer.param_groups for each in group["params"])
    plain = (each for each in weights if type(each) in (Tensor, Parameter) and not each.is_sparse)
    return any_nan(each for each in plain if each.grad is not None)


def any_nan(weights: Iterable[Any]) -> bool:
    """Return whether one of some tensors has a NaN.

    Args:
        weights: The tensors, each of which has values.
    """
    return any(bool(each.detach().isnan().any()) for each in weights)


def reason(models: Iterable[Any]) -> tuple[str, str]:
    """Return what seems to have led to NaN, as the end of a sentence, and the fix.

    Args:
        models: The modules that were trained.
    """
    for model in models:
        for name, each in model.named_buffers():
            if _DIVISORS.search(name) and bool((each == 0).any()):
                what = f"; {type(model).__name__}.{name} has a 0, by which it may divide"
                return what, f"Divide by what is never 0: {name.rpartition('.')[2]}.clamp(min=1e-6)"
    return "", _FIX


def of_loss(model: Any, lost: str) -> Finding:  # noqa: ANN401 - a LightningModule
    """Return what is wrong with a loss of NaN: a doubt, unless weights are NaN from then on.

    Args:
        model: The model that was trained.
        lost: What was NaN where batches of the run's own size have made weights NaN, such as
            ``batch[0]``; empty otherwise.
    """
    said = f"model: the loss of {type(model).__name__} is NaN for the first batch"
    if not lost:
        return doubt("step", "model", f"{said}.", _FIX)
    why, fix = reason([model])
    if lost.startswith("batch"):
        why = f": {lost} is NaN"
        fix = f"If {lost} is constant, its std is 0: divide by std.clamp(min=1e-6)"
    return refusal("step", "model", f"{said}, and from then on its weights are NaN{why}.", fix)
