"""Streams that never end, and what a Trainer waits for at their end."""

import ast
import inspect
import itertools
import math
import operator
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import tree_of
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.frames import is_own
from getiaction_launch.checking.loading.batches import TRAINING, length_of, trained_batches

_ENDLESS = (itertools.cycle, itertools.count)
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_DEEPEST = 3
"""How many methods that only hand on to another one are followed."""


def check_endless(
    built: Built,
    train: Any,  # noqa: ANN401 - a loader of any kind
    validation: Any,  # noqa: ANN401 - as above
) -> Iterator[Finding]:
    """Find a validation or an epoch that never ends, as no limit ends the stream that it reads.

    Args:
        built: What the spec names.
        train: What ``train_dataloader`` has returned.
        validation: What ``val_dataloader`` has returned, if the run validates.
    """
    arguments = built.arguments
    if arguments.get("overfit_batches") or arguments.get("fast_dev_run"):
        return
    held_out = validation if isinstance(validation, (list, tuple)) else [validation]
    found = next(filter(None, map(_endless, held_out)), None)
    if found and type(arguments.get("limit_val_batches")) is not int:
        is_sure = _comes(built, train) and not arguments.get("max_time")
        judged = refusal if is_sure else doubt
        yield judged(
            "data",
            "trainer.limit_val_batches",
            f"{found} never ends, and trainer.limit_val_batches is not set, so the first "
            "validation never ends.",
            "--trainer.limit_val_batches=100, or have the stream end after each sample once",
        )
    endless = _endless(train)
    has_steps = int(arguments.get("max_steps") or -1) > 0
    if not endless or type(arguments.get(TRAINING)) is int:
        return
    if not has_steps and not arguments.get("max_time"):
        yield doubt(
            "data",
            "trainer.max_steps",
            f"{endless} never ends, so the first epoch has no end, which trainer.max_epochs waits "
            "for.",
            "--trainer.max_steps=10000, or batches of an epoch: --trainer.limit_train_batches=1000",
        )


def _comes(built: Built, train: Any) -> bool:  # noqa: ANN401 - a loader of any kind
    """Whether the run surely comes to a validation."""
    arguments, limit = built.arguments, built.arguments.get(TRAINING)
    batches: float | None = trained_batches(built, train)
    if _endless(train):
        batches = limit if type(limit) is int else math.inf
    interval = arguments.get("val_check_interval")
    every = arguments.get("check_val_every_n_epoch", 1)
    if batches is None or isinstance(interval, (str, Mapping)):
        return False
    steps, epochs = int(arguments.get("max_steps") or -1), built.trainer.max_epochs or -1
    taken = steps * int(arguments.get("accumulate_grad_batches") or 1) if steps > 0 else math.inf
    total = min(taken, batches * epochs if epochs > 0 else math.inf)
    if type(interval) is int:
        return interval <= total
    return every is not None and batches < math.inf and batches * every <= total


def _endless(loader: Any) -> str:  # noqa: ANN401 - as above
    """Return the class and the line that never ends; nothing if the loader may end."""
    from torch.utils.data import DataLoader, IterableDataset

    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        return ""
    dataset = loader.dataset
    if not isinstance(dataset, IterableDataset) or length_of(loader) is not None:
        return ""
    return _place_of(type(dataset))


def _place_of(kind: type) -> str:
    """Return where iterating objects of a class never ends; nothing if it may."""
    name = "__iter__"
    for _ in range(_DEEPEST):
        function = getattr(kind, name, None)
        try:
            lines, first = inspect.getsourcelines(function)  # type: ignore[arg-type]
            file = inspect.getfile(function)  # type: ignore[arg-type]
        except (OSError, TypeError):
            break
        tree = tree_of("".join(lines))
        method = tree.body[0] if tree else None
        if not is_own(file) or not isinstance(method, ast.FunctionDef):
            break
        line, name = _end_of(method, SimpleNamespace(**getattr(function, "__globals__", {})))
        if line:
            return f"{Path(file).name}:{first + line - 1}: {kind.__name__}.{method.name}"
    return ""


def _end_of(method: ast.FunctionDef, names: SimpleNamespace) -> tuple[int, str]:
    """Return the line of a loop that a method surely comes to and never leaves.

    Args:
        method: A method that makes an iterator.
        names: What the names of its module stand for.

    Returns:
        The line, or 0; and the method of the same object that it hands on to instead, if any.
    """
    pending = list(method.body)
    while pending:
        statement = pending.pop(0)
        if isinstance(statement, ast.With):
            pending[:0] = statement.body
            continue
        value = getattr(statement, "value", None)
        if isinstance(value, ast.YieldFrom) or isinstance(statement, ast.Return):
            source = value.value if isinstance(value, ast.YieldFrom) else value
            if source is not None and _never_ends(source, names):
                return statement.lineno, ""
            called = source.func if isinstance(source, ast.Call) else None
            if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "self":
                return 0, called.attr
            return 0, ""
        is_loop = isinstance(statement, ast.While) and _is_true(statement.test)
        is_loop |= isinstance(statement, ast.For) and _never_ends(statement.iter, names)
        if is_loop and not _leaves(statement) and _yields(statement):
            return statement.lineno, ""
        if any(isinstance(each, (ast.Return, ast.Raise)) for each in _within(statement)):
            return 0, ""
    return 0, ""


def _is_true(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and bool(test.value)


def _never_ends(source: ast.expr, names: SimpleNamespace) -> bool:
    """Whether an expression is an iterator of itertools that never ends, also if it is numbered."""
    if not isinstance(source, ast.Call):
        return False
    name = ast.unparse(source.func)
    if name in ("iter", "enumerate") and source.args:
        return _never_ends(source.args[0], names)
    try:
        return operator.attrgetter(name)(names) in _ENDLESS
    except AttributeError:
        return False


def _leaves(loop: ast.AST) -> bool:
    """Whether something in a loop ends it, or may: also by an error that it raises or catches."""
    ends = (ast.Return, ast.Raise, ast.Try, ast.Assert)
    if any(isinstance(each, ends) for each in _within(loop)):
        return True
    pending = list(ast.iter_child_nodes(loop))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Break):
            return True
        if isinstance(node, (ast.For, ast.While)):
            pending += node.orelse  # a break in its body ends the inner loop
        elif not isinstance(node, _INNER):
            pending += ast.iter_child_nodes(node)
    return False


def _yields(loop: ast.AST) -> bool:
    return any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in _within(loop))


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and what is in it, without functions that are only defined there."""
    yield node
    for each in ast.iter_child_nodes(node):
        if not isinstance(each, _INNER):
            yield from _within(each)
