"""Methods of a callback that look like hooks, and that Lightning calls by another name."""

import difflib
from collections.abc import Iterator

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import has_own, own_classes
from getiaction_launch.checking.finding import Finding, doubt

_NEAR = 0.88
_FORMER = {
    f"on_{phase}_{end}": f"on_train_{phase}_{end}"
    for phase in ("epoch", "batch")
    for end in ("start", "end")
}
"""Hooks of Lightning 1, and what they are called now."""


def check_hooks(built: Built) -> Iterator[Finding]:
    """Find methods of the user's own callbacks that nobody calls.

    Args:
        built: What the spec names.
    """
    from lightning.pytorch import Callback

    hooks = [name for name in dir(Callback) if name.startswith("on_")]
    for kind, key, source in own_classes(built):
        for name in vars(kind) if issubclass(kind, Callback) else ():
            if not name.startswith("on_") or name in hooks or source.count(name) > 1:
                continue
            meant = _FORMER.get(name, name.replace("begin", "start"))
            near = [meant] if meant in hooks else difflib.get_close_matches(name, hooks, 1, _NEAR)
            if near and not (built.source and f".{name}(" in built.source.text):
                yield doubt(
                    "callbacks",
                    f"{key}.{name}",
                    f"{kind.__name__} defines {name}, which Lightning never calls.",
                    f"Rename it: def {near[0]}",
                )


def unused_data(built: Built) -> Iterator[Finding]:
    """Find validation data for which a model has no step.

    Args:
        built: What the spec names.
    """
    if has_own(built.model, "validation_step"):
        return
    kind = type(built.model)
    near = difflib.get_close_matches("validation_step", vars(kind), 1, 0.6)
    yield doubt(
        "data",
        "model.validation_step",
        f"{kind.__name__} has no validation_step, so the validation data is never used.",
        f"Rename {near[0]}: Lightning calls validation_step" if near else "Define validation_step",
    )
