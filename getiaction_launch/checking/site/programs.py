"""Whether workers surely import torch."""

import re

from getiaction_launch.plan.plan import Plan

_TORCH = re.compile(r"^\s*(import|from)\s+(torch|lightning|pytorch_lightning)\b", re.MULTILINE)


def imports_torch(plan: Plan) -> bool:
    """Return whether each worker imports torch: all do for a spec, and scripts that say so.

    Args:
        plan: The plan of the run.
    """
    if plan.arguments:
        return True
    try:
        text = plan.script_path.read_text(encoding="utf-8") if plan.script_path else ""
    except (OSError, UnicodeError):
        return False
    return _TORCH.search(text) is not None
