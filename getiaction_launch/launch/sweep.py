"""A sweep: the same spec or script at every point of a grid, one run for each point."""

import itertools
import re
import uuid
from collections.abc import Sequence

from getiaction_launch.errors import UsageError
from getiaction_launch.plan.plan import SweepPoint

GROUP = re.compile(r"([^/]+)-[0-9a-f]{8}")
"""What a sweep is called: the name of its runs, if it was given one, and a random number."""
SHORT = {"seed": "seed_everything"}


def expand(grid: Sequence[str], name: str, *, is_spec: bool = True) -> list[SweepPoint]:
    """Make every point of a grid.

    Args:
        grid: One ``key=value,value,...`` for each axis; a value with a comma is written in
            brackets or quotes, as in YAML.
        name: The first part of the name of the sweep's group.
        is_spec: Whether the keys are those of a spec, where `seed` is short for `seed_everything`.

    Returns:
        The points, of which the last axis changes first.

    Raises:
        UsageError: For an axis without values, or a key that is given twice.
    """
    axes: dict[str, list[str]] = {}
    for axis in grid:
        key, _, text = axis.partition("=")
        values = _split(text)
        if not key or not values:
            raise UsageError(
                f"--sweep {axis!r} has no values.", "--sweep model.init_args.lr=1e-5,3e-5"
            )
        key = SHORT.get(key, key) if is_spec else key
        if key in axes:
            raise UsageError(f"--sweep {key} is given twice.", f"--sweep {key}=A,B,C")
        axes[key] = values
    group = f"{name}-{uuid.uuid4().hex[:8]}"
    points = itertools.product(*axes.values())
    return [SweepPoint(group, dict(zip(axes, point, strict=True))) for point in points]


def _split(text: str) -> list[str]:
    """Split at the commas that separate items in YAML's flow style, keeping each value as typed."""
    import yaml  # slow to import

    try:
        tokens = yaml.compose(f"[{text}]", yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"--sweep: invalid values {text!r}.", "--sweep key=1,2,3") from error
    nodes = tokens.value if isinstance(tokens, yaml.SequenceNode) else []
    return [f"[{text}]"[n.start_mark.index : n.end_mark.index] for n in nodes]
