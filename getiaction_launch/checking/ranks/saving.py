"""Files that every rank writes to, at the same time and by the same name."""

import ast
import re
from collections.abc import Iterator, Sequence

from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Topology

_WRITES = {"torch.save": 1, "numpy.save": 0, "numpy.savez": 0, "numpy.savez_compressed": 0}
"""Functions that write a file, and where its path stands among their arguments."""
_OF_ONE_RANK = re.compile(
    r"rank|pid|host|node|uuid|tmp|temp|proc|worker|gpu|device|world", re.IGNORECASE
)
"""What stands in a path that each rank, or each node, has for itself."""
_CHOOSES = re.compile(r"rank|process|master|main|zero|first", re.IGNORECASE)
"""Context managers below which perhaps one rank alone does something."""
_MOVES = ("chdir", "hydra", "torch.save =", "np.save =", "numpy.save =")
"""What gives each rank a working directory of its own, or replaces a function that writes."""


def check_saving(
    calls: Sequence[ast.Call], source: Source, topology: Topology
) -> Iterator[Finding]:
    """Find a file that all ranks write to.

    Ranks that write the same bytes may well leave a whole file behind, so this is only a doubt.

    Args:
        calls: The calls in the script.
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    if any(word in source.text for word in _MOVES):
        return
    chosen = {
        inner
        for node in ast.walk(source.tree)
        if isinstance(node, ast.With) and any(map(_is_chosen, node.items))
        for inner in ast.walk(node)
    }
    for node in calls:
        path = source.argument(node, _WRITES, ("f", "file"))
        if path is None or node not in source.certain or node in chosen:
            continue
        if _OF_ONE_RANK.search(_described(path, source)):
            continue
        shown, called = ast.unparse(path), ast.unparse(node.func)
        yield doubt(
            "ranks",
            called,
            f"{source.at(node)}: {called} writes {shown} on each of the {topology.world_size} "
            "ranks, and ranks that write at the same time can damage the file.",
            f"Let one rank write it: if torch.distributed.get_rank() == 0: {called}(...)",
        )
        return


def _is_chosen(item: ast.withitem) -> bool:
    return bool(_CHOOSES.search(ast.unparse(item.context_expr)))


def _described(path: ast.expr, source: Source) -> str:
    """Return a path with what its names are set to, as far as that is known."""
    names = [node for node in ast.walk(path) if isinstance(node, ast.Name)]
    found = [ast.unparse(source.constants.expression_of(name)) for name in names]
    return " ".join([ast.unparse(path), *found])
