"""What a class keeps where Lightning or torch does not look for it."""

import ast
import re
from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import own_attributes, own_classes, tree_of
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.weights.hidden import hidden_in


def check_hidden_layers(built: Built, trial: Any) -> Iterator[Finding]:  # noqa: ANN401 - Lightning's Trainer
    """Find layers in plain lists and mappings that get gradients, and that no optimizer has.

    Args:
        built: What the spec names.
        trial: The Trainer that has trained.
    """
    groups = [group for each in trial.optimizers for group in each.param_groups]
    known = {id(weight) for group in groups for weight in group["params"]}
    known |= {id(weight) for weight in built.model.parameters()}
    for each in hidden_in(built.model.modules(), known):
        is_sure = each.is_trained and built.model.automatic_optimization
        judged = refusal if is_sure else doubt
        yield judged("step", each.name, each.what, each.fix)


def check_preparation(built: Built) -> Iterator[Finding]:
    """Find what ``prepare_data`` keeps in its object, which only one worker of a node has.

    Args:
        built: What the spec names.
    """
    if built.plan.topology.workers_per_node == 1:
        return
    classes = list(own_classes(built))
    sources = "".join(source for _, _, source in classes)
    whole = sources + (built.source.text if built.source else "")
    if ".prepare_data(" in whole:
        return  # somebody else calls it, too
    for kind, key, source in classes:
        tree = tree_of(source)
        if tree is None or "prepare_data" not in vars(kind):
            continue
        methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        inside = [node for node in methods if node.name == "prepare_data"]
        outside = [node for node in methods if node.name != "prepare_data"]
        kept = {name for node in inside for name in own_attributes(node, ast.Store)}
        read = {name for node in outside for name in own_attributes(node, ast.Load)}
        also = {name for node in outside for name in own_attributes(node, ast.Store)}
        for name in sorted(kept & read - also):
            is_asked_for = f'"{name}"' in whole or f"'{name}'" in whole  # as by hasattr
            is_set_below = len(re.findall(rf"self\.{name}(?::[^=\n]+)?\s*=(?!=)", sources)) > 1
            is_set = is_set_below or _is_set_elsewhere(built, name)
            if hasattr(kind, name) or is_asked_for or is_set:
                continue
            yield refusal(
                "data",
                f"{key}.{name}" if not built.script else name,
                f"{kind.__name__}.prepare_data sets self.{name}, but Lightning calls it in one "
                f"worker of each node, and the other {built.plan.topology.workers_per_node - 1} "
                "do not have it.",
                f"Set self.{name} in setup, which every worker calls; prepare_data only downloads",
            )


def _is_set_elsewhere(built: Built, name: str) -> bool:
    """Whether a script sets an attribute of its objects from outside."""
    tree = built.source.tree if built.source else ast.Module([], [])
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) != "self"
        for node in ast.walk(tree)
    )
