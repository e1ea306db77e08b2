"""Parts of the data that a program deals out to its ranks: of other sizes, or overlapping."""

import ast
import re
from collections.abc import Iterator, Sequence

from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Topology

_SPLITS = ("torch.utils.data.random_split", "torch.utils.data.dataset.random_split")
_GENERATOR = 3
"""How many arguments ``random_split`` has with its generator."""
_SEEDS = ("torch.manual_seed", "torch.random.manual_seed")
_RANK = re.compile(r"rank", re.IGNORECASE)
_WORLD = re.compile(r"world|size|rank", re.IGNORECASE)
_EVENS_OUT = re.compile(
    r"\bjoin\b|Join|% |// |drop|islice|all_reduce|all_gather|broadcast|min\(|while |cycle"
)
"""How source says that it sees to ranks with other numbers of samples."""


def check_parts(calls: Sequence[ast.Call], source: Source, topology: Topology) -> Iterator[Finding]:
    """Find parts by which the ranks disagree on what is held out, or on how long an epoch is.

    Args:
        calls: The calls in the script.
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    yield from _of_splits(calls, source)
    yield from _of_turns(source, topology)


def _of_splits(calls: Sequence[ast.Call], source: Source) -> Iterator[Finding]:
    """Find a random split that each rank draws for itself."""
    seeds = [node for node in calls if source.names.of(node.func) in _SEEDS]
    for node in calls:
        named = {word.arg for word in node.keywords}
        is_split = source.names.of(node.func) in _SPLITS
        if not is_split or len(node.args) >= _GENERATOR or named & {"generator", None}:
            continue
        before = [seed for seed in seeds if seed.lineno < node.lineno]
        last = max(before, key=lambda seed: seed.lineno, default=None)
        is_of_rank = last is not None and bool(_RANK.search(" ".join(map(ast.unparse, last.args))))
        is_unseeded = "seed" not in source.text and source.is_alone
        if is_of_rank or is_unseeded:
            yield doubt(
                "samples",
                "random_split",
                f"{source.at(node)}: random_split draws another split on each rank, so what one of "
                "them holds out, the others train on.",
                "Give it a seed of its own: random_split(..., "
                "generator=torch.Generator().manual_seed(0))",
            )


def _of_turns(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find samples that are dealt out in turns, where nothing makes up for a last round."""
    if _EVENS_OUT.search(source.text):
        return
    for node in ast.walk(source.tree):
        turns = node.slice if isinstance(node, ast.Subscript) else None
        if not isinstance(turns, ast.Slice) or turns.upper or not (turns.lower and turns.step):
            continue
        is_dealt = _RANK.search(ast.unparse(turns.lower)) and _WORLD.search(ast.unparse(turns.step))
        number = _length(node.value, source)  # type: ignore[attr-defined] # a subscript
        if not is_dealt or (number is not None and number % topology.world_size == 0):
            continue
        at, shown = source.at(node), ast.unparse(node)  # type: ignore[arg-type] # a subscript
        rest = "unless they can be divided evenly" if number is None else f"as there are {number}"
        what = f"{at}: {shown} gives some of the {topology.world_size} ranks one sample more than "
        what += f"the others, {rest}; a rank with one batch more waits for them forever."
        fix = "Use DistributedSampler, which evens them out; or train within Join([model]) of "
        yield doubt("samples", shown, what, f"{fix}torch.distributed.algorithms.join")
        return


def _length(node: ast.expr, source: Source) -> int | None:
    """Return how many samples there are, if the script cuts them to a number."""
    node = source.constants.expression_of(node)
    if not isinstance(node, ast.Subscript) or not isinstance(node.slice, ast.Slice):
        return None
    if node.slice.lower or node.slice.step or node.slice.upper is None:
        return None
    number = source.constants.value_of(node.slice.upper)
    return number if isinstance(number, int) and number > 0 else None
