"""Weights that are in plain lists and mappings, where neither torch nor an optimizer sees them."""

import gc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

_MOST_LEVELS = 3


@dataclass(frozen=True)
class Hidden:
    """An attribute of a module that holds weights with gradients, and does not register them.

    Attributes:
        name: Name of the attribute.
        what: What is wrong with it, as a sentence.
        fix: What to write in its place.
        is_trained: Whether it is there to be trained, as no network that only judges is.
        weights: The weights in it.
    """

    name: str
    what: str
    fix: str
    is_trained: bool
    weights: list[Any]


def hidden_in(modules: Iterable[Any], known: set[int]) -> Iterator[Hidden]:
    """Find weights that have got gradients, and that nobody steps.

    Args:
        modules: The modules whose attributes are looked at.
        known: The identities of the weights that optimizers have, or that modules register.
    """
    from torch.nn import Module

    for owner in modules:
        for name, value in vars(owner).items():
            parts = list(_parts_in(value)) if not name.startswith("_") else []
            layers = [each for each in parts if isinstance(each, Module)]
            weights = [each for each in parts if not isinstance(each, Module)]
            weights += [weight for layer in layers for weight in layer.parameters()]
            is_learning = any(each.grad is not None for each in weights)
            if not is_learning or any(id(each) in known for each in weights):
                continue
            kind, holder = type(owner).__name__, type(value).__name__
            right = ("Module" if layers else "Parameter") + (
                "Dict" if isinstance(value, dict) else "List"
            )
            held = f"{len(parts)} {'modules' if layers else 'parameters'}"
            yield Hidden(
                name,
                f"{kind}.{name} is a {holder} with {held}, whose weights are in no "
                "parameters(): they are not trained, saved, or moved to a GPU.",
                f"self.{name} = torch.nn.{right}(...)",
                # A network that only judges is often hidden on purpose, alone or in eval mode.
                len(parts) > 1 and all(layer.training for layer in layers),
                weights,
            )


def _parts_in(value: object, level: int = 0) -> Iterator[Any]:
    from torch.nn import Module, Parameter

    if type(value) in (list, tuple, dict) and level < _MOST_LEVELS:
        for part in value.values() if isinstance(value, dict) else value:  # type: ignore[attr-defined]
            if isinstance(part, (Module, Parameter)):
                yield part
            else:
                yield from _parts_in(part, level + 1)


def optimizers_here() -> list[Any]:
    """Return the optimizers of this process."""
    from torch.optim import Optimizer

    return [each for each in gc.get_objects() if issubclass(type(each), Optimizer)]


def trained_here() -> tuple[list[Any], set[int]]:
    """Return the modules of this process that are trained, and the weights that are known.

    A weight is known if an optimizer has it, or if it is registered beside one that it has.
    """
    from torch.nn import Module

    groups = [group for each in optimizers_here() for group in getattr(each, "param_groups", ())]
    stepped = {id(weight) for group in groups for weight in group["params"]}
    modules: dict[int, Any] = {}
    known = set(stepped)
    for each in gc.get_objects():
        if issubclass(type(each), Module):
            inside = list(_modules_in(each, set()))
            weights = {
                id(weight) for inner in inside for weight in vars(inner)["_parameters"].values()
            }
            if weights & stepped:
                known |= weights
                modules |= {id(inner): inner for inner in inside}
    return list(modules.values()), known


def _modules_in(module: Any, seen: set[int]) -> Iterator[Any]:  # noqa: ANN401 - a Module, perhaps not made yet
    """Yield a module and those in it, asking no method that a program may have made its own."""
    if {"_modules", "_parameters"} <= vars(module).keys() and id(module) not in seen:
        seen.add(id(module))
        yield module
        for inner in vars(module)["_modules"].values():
            if inner is not None:
                yield from _modules_in(inner, seen)
