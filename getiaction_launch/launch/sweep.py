"""A sweep: the same spec at every point of a grid, one run for each point."""

import itertools
import uuid
from collections.abc import Sequence
from typing import Any

import yaml

from getiaction_launch.errors import UsageError

SHORT = {"seed": "seed_everything"}


def expand(grid: Sequence[str], name: str, *, is_spec: bool = True) -> list[dict[str, Any]]:
    """Every point of a grid.

    Args:
        grid: ``key=value,value,...`` each; a value with a comma in brackets or quotes, as in YAML.
        name: What the group is called after.
        is_spec: Whether the keys are a spec's, of which `seed` is short for `seed_everything`.

    Returns:
        For each point its ``group``, the same for all, and its ``values`` by dotted key, as text.

    Raises:
        UsageError: For an axis without values, or a key that is given twice.
    """
    axes: dict[str, list[str]] = {}
    for axis in grid:
        key, _, text = axis.partition("=")
        values = _split(text)
        if not key or not values:
            raise UsageError(
                f"--sweep {axis!r} names no values.", "--sweep model.init_args.lr=1e-5,3e-5"
            )
        key = SHORT.get(key, key) if is_spec else key
        if key in axes:
            raise UsageError(f"--sweep {key} is given twice.", f"--sweep {key}=A,B,C")
        axes[key] = values
    group = f"{name}-{uuid.uuid4().hex[:8]}"
    points = itertools.product(*axes.values())
    return [{"group": group, "values": dict(zip(axes, point, strict=True))} for point in points]


def _split(text: str) -> list[str]:
    """Split at the commas that YAML's flow style would split at, keeping each value as typed."""
    try:
        tokens = yaml.compose(f"[{text}]", yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"--sweep: {text!r} cannot be read.", "--sweep key=1,2,3") from error
    nodes = tokens.value if isinstance(tokens, yaml.SequenceNode) else []
    return [f"[{text}]"[n.start_mark.index : n.end_mark.index] for n in nodes]
