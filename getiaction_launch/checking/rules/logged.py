"""The metrics that classes log in a fit, as far as their source has the names."""

import ast
import re
from collections.abc import Iterable, Iterator

from getiaction_launch.checking.rules.sources import sources_of, tree_of

_OUTSIDE = re.compile(r"^(on_)?(test|predict)")
_LOGGING = {"log", "log_dict", "callback_metrics", "logged_metrics"}
_ITSELF = {"self", "trainer", "pl_module"}


def names_of(owners: Iterable[object]) -> set[str] | None:
    """Return the names of all metrics that classes log in a fit; None if they make up names.

    Args:
        owners: A model and callbacks, of users and of libraries.
    """
    found: set[str] = set()
    for source in _sources(owners):
        tree = tree_of(source)
        names = _literal_names(tree) if tree else None
        if names is None:
            return None
        found |= names
    return found


def _parts_of_fits(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is below a node, without methods for tests and predictions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) and _OUTSIDE.search(child.name):
            continue
        yield child
        yield from _parts_of_fits(child)


def _literal_names(tree: ast.AST) -> set[str] | None:
    """Return the names that a class logs; None if one of them may not be written out."""
    parts = list(_parts_of_fits(tree))
    calls = [node for node in parts if isinstance(node, ast.Call)]
    logging = [call.func for call in calls if _last_name(call.func) == "log"]
    for node in parts:
        is_other = isinstance(node, ast.Attribute) and node.attr in _LOGGING
        if (is_other and node not in logging) or _hands_itself_on(node):
            return None
    names = [call.args[0] if call.args else None for call in calls if call.func in logging]
    found = {name.value for name in names if isinstance(name, ast.Constant)}
    return {str(each) for each in found} if len(names) == len(_constants(names)) else None


def _constants(nodes: Iterable[ast.AST | None]) -> list[ast.Constant]:
    return [node for node in nodes if isinstance(node, ast.Constant)]


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ""


def _hands_itself_on(node: ast.AST) -> bool:
    """Whether a call gives a model or a Trainer to somebody else, who may log."""
    words = node.args if isinstance(node, ast.Call) else []
    return any(isinstance(each, ast.Name) and each.id in _ITSELF for each in words)


def is_written(monitor: str, owners: Iterable[object]) -> bool:
    """Return whether the classes of users have the name of a metric in their source.

    Args:
        monitor: The name of the metric.
        owners: A model and callbacks, of users and of libraries.
    """
    whole = re.compile(rf"(?<!\w){re.escape(monitor)}(?!\w)")
    return any(map(whole.search, _sources(owners)))


def _sources(owners: Iterable[object]) -> Iterator[str]:
    return (source for owner in owners for _, source in sources_of(owner))
