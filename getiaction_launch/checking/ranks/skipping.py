"""Batches that a rank leaves out alone, though the others need its gradients for them."""

import ast
import re
from collections.abc import Iterator

from getiaction_launch.checking.finding import Finding, doubt
from getiaction_launch.checking.ranks.wrapped import WRAPPERS
from getiaction_launch.checking.source.reach import called_name
from getiaction_launch.checking.source.source import Source, uses_fabric
from getiaction_launch.plan.plan import Topology

_AGREES = re.compile(r"all_?reduce|all_?gather|broadcast|\.reduce\(|\bJoin\b|no_sync")
"""How statements say that the ranks decide together, or need not do the same."""
_JUDGES = {"isnan", "isfinite", "isinf", "is_nan", "is_finite"}
_HARMLESS = {"item", "any", "all", "abs", "float", "bool", "detach", "cpu", "mean", "sum", "max"}
"""What a condition may call besides, by which no rank asks another one."""


def check_skipping(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find batches that a rank leaves out because of its own loss or samples.

    Args:
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    wraps = any(source.names.of(node.func) in WRAPPERS for node in calls)
    if topology.world_size == 1 or not (wraps or uses_fabric(source)):
        return
    for loop in ast.walk(source.tree):
        if not isinstance(loop, (ast.For, ast.While)):
            continue
        learned = [node for node in _inside(loop.body) if called_name(node) == "backward"]
        if not learned or _AGREES.search(_before(loop, learned[0])):
            continue
        inside = list(_inside(loop.body))
        stored = {
            ast.unparse(node)
            for node in inside
            if isinstance(getattr(node, "ctx", None), ast.Store)
        }
        losses = {name for node in learned for name in _names(node)} & stored
        for node in inside:
            if isinstance(node, ast.If) and _skips(node, learned[0]) and _is_own(node.test, losses):
                shown = ast.unparse(node.test)
                yield doubt(
                    "ranks",
                    source.at(node),
                    f"{source.at(node)}: each rank leaves out a batch on its own, if {shown}: the "
                    "others then average its gradients of another batch, and wait for it forever "
                    "at the end.",
                    "Decide together: bad = torch.isnan(loss).float(); "
                    "torch.distributed.all_reduce(bad); if bad > 0: continue",
                )
                return


def _inside(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Yield the nodes of a loop in the order of their lines, without those of loops in it."""
    for statement in body:
        if not isinstance(statement, (ast.For, ast.While, ast.FunctionDef, ast.ClassDef)):
            yield from ast.walk(statement)


def _before(loop: ast.For | ast.While, learned: ast.AST) -> str:
    """Return the statements of a loop that come before its gradients, and that they stand in."""
    line = getattr(learned, "lineno", 0)
    return "\n".join(ast.unparse(each) for each in loop.body if each.lineno <= line)


def _skips(node: ast.If, learned: ast.AST) -> bool:
    """Whether a condition decides if gradients are computed."""
    if node.orelse:
        return False
    if learned in list(ast.walk(node)):
        return True
    return isinstance(node.body[-1], ast.Continue) and node.lineno < getattr(learned, "lineno", 0)


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _is_own(test: ast.expr, losses: set[str]) -> bool:
    """Whether a condition is about a rank's own loss, or about numbers that are none."""
    called = {called_name(each) for each in ast.walk(test) if isinstance(each, ast.Call)}
    if called - _JUDGES - _HARMLESS:
        return False
    is_compared = any(
        isinstance(each, (ast.Lt, ast.Gt, ast.LtE, ast.GtE)) for each in ast.walk(test)
    )
    return bool(called & _JUDGES) or (is_compared and bool(_names(test) & losses))
