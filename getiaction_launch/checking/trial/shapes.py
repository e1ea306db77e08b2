"""Weights and buffers that training gives another shape, so that a new process cannot load them."""

from collections.abc import Iterator, Mapping
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, refusal


def shapes_of(model: Any) -> dict[str, list[int] | None]:  # noqa: ANN401 - a LightningModule
    """Return the shape of each tensor that a checkpoint has of a model; None if it has none yet.

    Args:
        model: The LightningModule that is tried.
    """
    from torch.nn.parameter import is_lazy

    state = {name: each for name, each in model.state_dict().items() if hasattr(each, "shape")}
    return {name: None if is_lazy(each) else list(each.shape) for name, each in state.items()}


def check_shapes(built: Built, before: Mapping[str, list[int] | None]) -> Iterator[Finding]:
    """Find the first tensor that has grown, where nothing of the model's own loads it.

    Args:
        built: What has been trained.
        before: What :func:`shapes_of` has returned before.
    """
    model = built.model
    if not model.strict_loading or _loads_itself(model):
        return
    for name, shape in shapes_of(model).items():
        first = before.get(name)
        if name in before and first in (None, shape):
            continue
        at_first = f"the shape {first}" if name in before else "is not there"
        owner = model.get_submodule(name.rpartition(".")[0])
        if name in before and _loads_itself(owner):
            continue
        yield refusal(
            "checkpoints",
            name,
            f"{type(model).__name__}: {name} has the shape {shape} after training, and "
            f"{at_first} when a run begins, so that no restart can load its checkpoint.",
            "Give it its whole size in __init__, resize it in on_load_checkpoint, or keep it out "
            "of checkpoints: register_buffer(..., persistent=False)",
        )
        return


def _loads_itself(module: Any) -> bool:  # noqa: ANN401 - a module of torch
    """Whether a module has its own way to load what a checkpoint has of it."""
    from lightning.pytorch import LightningModule
    from torch.nn import Module

    kind = type(module)
    names = ("_load_from_state_dict", "load_state_dict")
    if any(getattr(kind, name) is not getattr(Module, name) for name in names):
        return True
    hook = getattr(kind, "on_load_checkpoint", None)
    is_own = hook not in (None, LightningModule.on_load_checkpoint)
    return is_own or bool(module._load_state_dict_pre_hooks)  # noqa: SLF001 - torch has no other list
