"""Whether workers surely import torch."""

import ast
import contextlib

from getiaction_launch.checking.source.source import Names
from getiaction_launch.plan.plan import Plan

_WITH_TORCH = {"torch", "lightning", "pytorch_lightning"}


def imports_torch(plan: Plan) -> bool:
    """Return whether each worker imports torch: all do for a spec, and scripts that say so.

    Args:
        plan: The plan of the run.
    """
    if plan.arguments:
        return True
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        if plan.script_path:
            return bool(Names(ast.parse(plan.script_path.read_bytes())).modules & _WITH_TORCH)
    return False
