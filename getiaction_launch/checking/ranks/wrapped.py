"""What a script asks of a model in DistributedDataParallel, and only the model inside has."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.ranks.rank_zero import certain_on_rank_0
from getiaction_launch.checking.source.source import Source

WRAPPERS = (
    "torch.nn.parallel.DistributedDataParallel",
    "torch.nn.parallel.distributed.DistributedDataParallel",
)
_FILES = (
    *("nn/parallel/distributed.py", "nn/modules/module.py"),
    "distributed/algorithms/join.py",
)
"""Where torch defines what a wrapped model has."""
_FORWARDS = ("__getattr__", "setattr", "__class__", "__dict__")
"""What a script mentions that may give a wrapper other attributes."""
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def device_ids_of(call: ast.Call, source: Source) -> list[ast.expr]:
    """Return the devices that a call gives to a wrapper; none if it makes another object.

    Args:
        call: A call in the script.
        source: The script, as it was read.
    """
    if source.names.of(call.func) not in WRAPPERS:
        return []
    words = (word.value for word in call.keywords if word.arg == "device_ids")
    devices = source.constants.expression_of(next(words, ast.Constant(None)))
    return devices.elts if isinstance(devices, ast.List) else []


def check_wrapped(source: Source) -> Iterator[Finding]:
    """Find what is asked of a wrapper, and only the model inside has.

    Args:
        source: The script, as it was read.
    """
    if any(word in source.text for word in _FORWARDS):
        return
    nodes = list(ast.walk(source.tree))
    known = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
    }
    certain = certain_on_rank_0(source)
    of_torch = _attributes()
    scopes = [node for node in nodes if isinstance(node, (ast.Module, ast.FunctionDef))]
    for own in (list(_own_nodes(scope)) for scope in scopes if of_torch):
        for name, wrapped_at in _wrapped(own, source).items():
            for node in own:
                if not isinstance(node, ast.Attribute) or ast.unparse(node.value) != name:
                    continue
                is_wrapped = node in certain and node.lineno > wrapped_at
                if is_wrapped and node.attr not in known | of_torch:
                    what = f"{source.at(node)}: {name} is a DistributedDataParallel, which has no "
                    what += f"attribute {node.attr!r}: only the model inside has it."
                    fix = f"Ask the model inside: {name}.module.{node.attr}"
                    yield refusal("model", f"{name}.{node.attr}", what, fix)


def _wrapped(own: list[ast.AST], source: Source) -> dict[str, int]:
    """Return the names that hold a wrapper, and nothing else, behind a line."""
    shared = [
        node for node in ast.walk(source.tree) if isinstance(node, (ast.Global, ast.Nonlocal))
    ]
    others = {name for node in shared for name in node.names}
    last: dict[str, int] = {}
    for node in own:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            last[node.id] = max(node.lineno, last.get(node.id, 0))
    found: dict[str, int] = {}
    for node in own:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        name = ast.unparse(node.targets[0])
        is_wrap = source.names.of(node.value.func) in WRAPPERS and node in source.certain
        if is_wrap and last.get(name) == node.lineno and name not in others:
            found[name] = node.end_lineno or node.lineno
    return found


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, or of a script, without those of what is defined in it."""
    for node in ast.iter_child_nodes(scope):
        if not isinstance(node, _SCOPES):
            yield node
            yield from _own_nodes(node)


def _attributes() -> set[str]:
    """Return what every wrapper has by torch's own source; empty if that is not here."""
    spec = importlib.util.find_spec("torch")
    places = spec.submodule_search_locations if spec else None
    if not places:
        return set()
    found = set(dir(object))
    for file in _FILES:
        try:
            tree = ast.parse(Path(places[0], file).read_bytes())
        except (OSError, SyntaxError, ValueError):
            return set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self":
                found.add(node.attr)
            elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
    return found
