"""The metrics that classes log in a fit, as far as their source has the names."""

import ast
import re
from collections.abc import Iterable, Iterator

from getiaction_launch.checking.classes.sources import sources_of, tree_of
from getiaction_launch.checking.source.reach import surely_executed

_OUTSIDE = re.compile(r"^(on_)?(test|predict)")
_LOGGING = {"log", "log_dict", "callback_metrics", "logged_metrics"}
_HOOKS = {
    *("training_step", "on_train_batch_end", "on_train_epoch_end"),
    *("validation_step", "on_validation_batch_end", "on_validation_epoch_end"),
}
"""Methods that each epoch calls."""
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


def are_shown(owners: Iterable[object]) -> bool:
    """Return whether each epoch logs all names that classes make up, so that a trial has seen them.

    Args:
        owners: A model and callbacks, of users and of libraries.
    """
    trees = list(map(tree_of, _sources(owners)))
    return bool(trees) and all(tree is not None and _shows_all(tree) for tree in trees)


def _shows_all(tree: ast.AST) -> bool:
    parts = list(_parts_of_fits(tree))
    hooks = [each for each in parts if isinstance(each, ast.FunctionDef) and each.name in _HOOKS]
    sure = {node for hook in hooks for node in surely_executed(hook)}
    of_data = set(_named_by_data(tree))
    for node in parts:
        is_logging = isinstance(node, ast.Call) and _last_name(node.func) in ("log", "log_dict")
        if is_logging and (node not in sure or node in of_data):
            return False
        is_other = isinstance(node, ast.Attribute) and node.attr in _LOGGING - {"log", "log_dict"}
        if is_other or _hands_itself_on(node):
            return False
    return True


def are_of_data(owners: Iterable[object]) -> bool:
    """Return whether classes may log by names that their data has, which a trial sees few of.

    Args:
        owners: A model and callbacks, of users and of libraries.
    """
    trees = map(tree_of, _sources(owners))
    return any(True for tree in trees if tree is not None for _ in _named_by_data(tree))


def _named_by_data(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield the calls that log by names made of what a method has got or calculated."""
    methods = [each for each in _parts_of_fits(tree) if isinstance(each, ast.FunctionDef)]
    for method in methods:
        own = {each.arg for each in ast.walk(method.args) if isinstance(each, ast.arg)}
        own |= _names(method, ast.Store)
        loops = [each for each in ast.walk(method) if isinstance(each, ast.For)]
        repeated = {node for loop in loops for node in ast.walk(loop)}
        for call in (each for each in ast.walk(method) if isinstance(each, ast.Call)):
            name = _last_name(call.func)
            words = [*call.args, *(each.value for each in call.keywords)]
            if words and (name == "log_dict" or (name == "log" and call in repeated)):
                made = words[0].keys if isinstance(words[0], ast.Dict) else words[:1]
                if any(each is None or _free_names(each) & own for each in made):
                    yield call


def _free_names(node: ast.AST) -> set[str]:
    return _names(node, ast.Load) - _names(node, ast.Store)


def _names(node: ast.AST, use: type[ast.expr_context]) -> set[str]:
    found = (each for each in ast.walk(node) if isinstance(each, ast.Name))
    return {each.id for each in found if isinstance(each.ctx, use)}


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


def is_part(word: str, owners: Iterable[object]) -> bool:
    """Return whether a word stands anywhere in the source of users' classes, also within others.

    Args:
        word: A part of the name of a metric.
        owners: A model and callbacks, of users and of libraries.
    """
    return any(word in source for source in _sources(owners))


def _sources(owners: Iterable[object]) -> Iterator[str]:
    return (source for owner in owners for _, source in sources_of(owner))
