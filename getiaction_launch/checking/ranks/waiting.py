"""What one rank does without the others, who do not wait for it, or wait in vain."""

import ast
import re
from collections.abc import Iterator, Sequence

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.ranks.rank_zero import ranks_of
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Topology

_WRITES = {"torch.save": 1, "numpy.save": 0}
_READS = {"torch.load": 0, "numpy.load": 0}
_MEETS = re.compile(r"barrier|broadcast|gather|reduce|DDP\(|DistributedDataParallel\(|wait|sleep")
"""How statements say that the ranks meet there, or that one waits for the others."""
_AGREES = re.compile(r"all_reduce|all_gather|broadcast|gather|barrier|monitored|Join|\.reduce\(")
_OF_RUN = {"config", "log", "watch", "summary", "define_metric"}
"""What W&B has only after ``wandb.init``."""


def check_waiting(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find files that are read too early, loops that a rank leaves alone, and W&B without a run.

    Args:
        source: The script, as it was read.
        topology: Nodes and workers of the run.
    """
    for node in ast.walk(source.tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and not isinstance(node, ast.ClassDef):
            yield from _of_early_reads(body, source)
    yield from _of_breaks(source)
    yield from _of_wandb(source, topology)


def _of_early_reads(body: Sequence[ast.stmt], source: Source) -> Iterator[Finding]:
    """Find a file that all ranks read at once, while rank 0 may still write it."""
    written: dict[str, str] = {}
    for statement in body:
        is_alone = isinstance(statement, ast.If) and ranks_of(statement.test) == "rank 0"
        if not is_alone:
            for path, node in _paths(statement, _READS, source):
                if path in written and node in source.certain:
                    what = f"{source.at(node)}: each rank reads {path}, which rank 0 writes at "
                    what += f"{written[path]}: the others do not wait until it is whole."
                    fix = "Behind what rank 0 does alone: torch.distributed.barrier()"
                    yield doubt("ranks", "barrier", what, fix)
                    return
        text = ast.unparse(statement)
        if _MEETS.search(text.replace("time.sleep", "") if is_alone else text):
            written = {}
        elif is_alone:
            found = _paths(statement, _WRITES, source)
            written |= {path: source.at(node) for path, node in found}


def _paths(
    statement: ast.stmt, calls: dict[str, int], source: Source
) -> Iterator[tuple[str, ast.Call]]:
    """Yield the paths that a statement writes or reads, each with the call."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and (path := source.argument(node, calls)):
            yield ast.unparse(path), node


def _of_breaks(source: Source) -> Iterator[Finding]:
    """Find a loop that each rank leaves by its own loss, though the others need its gradients."""
    if _AGREES.search(source.text):
        return
    for loop in ast.walk(source.tree):
        if not isinstance(loop, (ast.For, ast.While)) or ".backward()" not in ast.unparse(loop):
            continue
        losses = [
            f"{ast.unparse(node.value)}.item()"
            for node in ast.walk(loop)
            if isinstance(node, ast.Attribute) and node.attr == "backward"
        ]
        judged = [node for node in ast.walk(loop) if isinstance(node, ast.If)]
        own = {
            name.id
            for node in judged
            if any(loss in ast.unparse(node.test) for loss in losses)
            for part in (*node.body, *node.orelse)
            for name in ast.walk(part)
            if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
        }
        for node in judged:
            names = {each.id for each in ast.walk(node.test) if isinstance(each, ast.Name)}
            is_own = any(loss in ast.unparse(node.test) for loss in losses) or bool(names & own)
            if is_own and isinstance(node.body[-1], ast.Break):
                shown = ast.unparse(node.test)
                what = f"{source.at(node)}: each rank decides by its own loss whether {shown}, so "
                what += "one may leave the loop, and the others wait for its gradients forever."
                fix = "Before the condition: torch.distributed.all_reduce(loss), and decide by that"
                yield doubt("ranks", "break", what, fix)
                return


def _of_wandb(source: Source, topology: Topology) -> Iterator[Finding]:
    """Find what only rank 0 has, as no other rank has called ``wandb.init``."""
    nodes = list(ast.walk(source.tree))
    alone = {
        inner
        for node in nodes
        if isinstance(node, ast.If) and ranks_of(node.test) == "rank 0"
        for part in node.body
        for inner in ast.walk(part)
    }
    names = [each for each in nodes if isinstance(each, (ast.Name, ast.Attribute))]
    starts = [each for each in names if source.names.of(each) == "wandb.init"]
    if not starts or not alone.issuperset(starts):
        return
    for node in names:
        if not isinstance(node, ast.Attribute) or node.attr not in _OF_RUN or node in alone:
            continue
        is_read = isinstance(node.ctx, ast.Load) and node in source.certain
        if is_read and source.names.of(node) == f"wandb.{node.attr}":
            what = f"{source.at(node)}: wandb.{node.attr} is used on all {topology.world_size} "
            what += "ranks, and only rank 0 calls wandb.init: on the others it raises an error."
            fix = "Use it on rank 0 alone, and elsewhere the value itself, such as args.lr"
            yield refusal("ranks", f"wandb.{node.attr}", what, fix)
            return
