"""A training step that returns nothing for some batches, which Lightning takes of one rank only."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import tree_of
from getiaction_launch.checking.finding import Finding, doubt


def check_skipping(built: Built) -> Iterator[Finding]:
    """Find batches that a model leaves out by returning None, which several ranks may not.

    Args:
        built: What the spec names.
    """
    world, kind = built.plan.topology.world_size, type(built.model)
    if world == 1 or not built.model.automatic_optimization:
        return
    try:
        lines, first = inspect.getsourcelines(kind.training_step)
        file = Path(inspect.getfile(kind.training_step)).name
    except (OSError, TypeError):
        return
    tree = tree_of("".join(lines))
    inner = [node for node in ast.walk(tree) if isinstance(node, ast.If)] if tree else []
    for node in inner:
        last = node.body[-1]
        is_none = isinstance(last, ast.Return) and (
            last.value is None
            or (isinstance(last.value, ast.Constant) and last.value.value is None)
        )
        if is_none:
            at = f"{file}:{first - 1 + last.lineno}"
            yield doubt(
                "ranks",
                at,
                f"{at}: {kind.__name__}.training_step returns None if {ast.unparse(node.test)}, "
                f"and Lightning raises an error there, as one of {world} ranks cannot skip a "
                "batch.",
                "Return a loss for each batch: leave such samples out in the dataset, or clean the "
                "batch before the model sees it: torch.nan_to_num(batch)",
            )
            return
