"""Weights that are NaN after the first step of an optimizer, which nothing mends any more."""

import re
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

_JUDGES = re.compile(r"is_?nan|is_?finite|is_?inf", re.IGNORECASE)
"""How source says that it looks for NaN, and may put back what was there before."""
_DIVISORS = re.compile(r"(std|scale|sigma|var|range|span|norm)\w*$")
"""How the names of what is divided by end."""
_FIX = "Look for NaN in the data, and for a division by zero, as in (x - mean) / (std + 1e-6)"


class NanWeightsError(ValueError):
    """The weights are NaN after the first step of an optimizer.

    Args:
        what: What is wrong, as a sentence.
        fix: What to do about it.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


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
    return any(each.grad is not None and bool(each.detach().isnan().any()) for each in plain)


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


def refuse_nan(model: Any, texts: Iterable[str]) -> None:  # noqa: ANN401 - a LightningModule
    """Have the first step of each optimizer raise an error from now on, if it leads to NaN.

    Args:
        model: The model that is trained.
        texts: The source of what takes part; what looks for NaN may mend what it finds.
    """
    from torch.optim.optimizer import register_optimizer_step_post_hook

    if any(map(looks_for_nan, texts)):
        return
    seen: WeakSet[Any] = WeakSet()

    def look(optimizer: Any, *_: object) -> None:  # noqa: ANN401 - one of torch
        if optimizer not in seen and has_nan(optimizer):
            why, fix = reason([model])
            what = f"the weights of {type(model).__name__} are NaN after the first optimizer step"
            raise NanWeightsError(f"{what}{why}.", fix)
        seen.add(optimizer)

    register_optimizer_step_post_hook(look)
