"""A GPU chosen by the rank among all nodes, where each node counts its GPUs from 0."""

import ast
import re
from collections.abc import Iterator, Sequence

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.ranks.wrapped import device_ids_of
from getiaction_launch.checking.source.reach import called_name
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Topology

_SET_DEVICE = "torch.cuda.set_device"
_DEVICE = "torch.device"
_GET_RANK = ("torch.distributed.get_rank", "torch.distributed.distributed_c10d.get_rank")
_OF_ENVIRONMENT = re.compile(
    r"(int\()?os\.(environ\['RANK'\]|(environ\.get|getenv)\('RANK'.*?\))\)?"
)
_LOCAL = "int(os.environ['LOCAL_RANK'])"


def check_global_rank(
    calls: Sequence[ast.Call], source: Source, topology: Topology
) -> Iterator[Finding]:
    """Find the first GPU that is chosen by the rank among all nodes.

    Args:
        calls: The calls in the script.
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    is_small = topology.num_nodes == 1 or not topology.gpus_per_node
    if is_small or "CUDA_VISIBLE_DEVICES" in source.text:
        return
    ranks = _names(source)
    for node in calls:
        for chosen in _choices(node, source):
            if not _is_rank(chosen, source) and ast.unparse(chosen) not in ranks:
                continue
            number = topology.gpus_per_node
            what = f"{source.at(node)}: {ast.unparse(node)} takes the rank among all nodes for the "
            what += f"number of a GPU, and rank {number}, on the second node, has no GPU {number}."
            fix = f"Choose it by the rank on the node: {_LOCAL}"
            yield source.judged(refusal("devices", "LOCAL_RANK", what, fix), node)
            return


def _is_rank(node: ast.expr, source: Source) -> bool:
    """Whether an expression is the rank among all nodes, and nothing else."""
    if isinstance(node, ast.Call) and source.names.of(node.func) in _GET_RANK:
        return not node.args and not node.keywords
    return bool(_OF_ENVIRONMENT.fullmatch(ast.unparse(node)))


def _names(source: Source) -> set[str]:
    """Return the names that a script sets to the rank, and to nothing else."""
    found: set[str] = set()
    nodes = list(ast.walk(source.tree))
    for node in nodes:
        if not isinstance(node, ast.Assign) or len(node.targets) != 1:
            continue
        (target,), value = node.targets, node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            pairs = list(zip(target.elts, value.elts, strict=False))
        names = [each for each, given in pairs if _is_rank(given, source)]
        found |= {each.id for each in names if isinstance(each, ast.Name)}
    stored = [n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)]
    stored += [node.arg for node in nodes if isinstance(node, ast.arg)]
    return {name for name in found if stored.count(name) == 1}


def _choices(node: ast.Call, source: Source) -> Iterator[ast.expr]:
    """Yield what a call takes for the number of a GPU."""
    whole, called = source.names.of(node.func), called_name(node)
    yield from device_ids_of(node, source)
    if whole == _SET_DEVICE or called == "cuda":
        yield from node.args[:1]
    elif whole == _DEVICE:
        yield from node.args[1:2]
        yield from _formatted(node.args[:1])
    elif called == "to" and isinstance(node.func, ast.Attribute):
        yield from node.args[:1]
        yield from _formatted(node.args[:1])


def _formatted(nodes: Sequence[ast.expr]) -> Iterator[ast.expr]:
    """Yield the number in a text such as ``f"cuda:{rank}"``."""
    for node in nodes:
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        is_gpu = bool(parts) and isinstance(parts[0], ast.Constant) and parts[0].value == "cuda:"
        if is_gpu and len(parts) == 2 and isinstance(parts[1], ast.FormattedValue):  # noqa: PLR2004
            yield parts[1].value
