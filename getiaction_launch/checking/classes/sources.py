"""The source of the user's own classes: what a trial of two batches does not come to."""

import ast
import contextlib
import inspect
import textwrap
from collections.abc import Iterator

from getiaction_launch.checking.built import Built, keys_of_classes

_CORE = ("lightning.pytorch.core", "pytorch_lightning.core")
_LIBRARIES = ("torch.", "lightning.", "pytorch_lightning.", "builtins.", "abc.")


def sources_of(owner: object, but: tuple[str, ...] = ()) -> Iterator[tuple[type, str]]:
    """Yield the class of an object and those above it that are of no library, with their source.

    Args:
        owner: A model, a datamodule or a callback; None has none.
        but: Beginnings of the names of other modules to leave out.
    """
    for kind in type(owner).__mro__:
        if not f"{kind.__module__}.".startswith((*_LIBRARIES, *but)):
            with contextlib.suppress(OSError, TypeError):
                yield kind, inspect.getsource(kind)


def has_own(owner: object, name: str) -> bool:
    """Return whether an object has a method which is not only Lightning's empty one.

    Args:
        owner: A model or a datamodule.
        name: Name of a hook, such as ``val_dataloader``.
    """
    if name in vars(owner):  # as those that LightningDataModule.from_datasets makes
        return True
    method = getattr(type(owner), name, None)
    return method is not None and not getattr(method, "__module__", "").startswith(_CORE)


def tree_of(source: str) -> ast.Module | None:
    """Return the syntax tree of a class or a method; None if its source does not stand alone."""
    try:
        return ast.parse(textwrap.dedent(source))
    except SyntaxError:
        return None


def own_attribute(node: ast.AST) -> str:
    """Return the name of an attribute of ``self``; nothing of any other expression.

    Args:
        node: A node of a method.
    """
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == "self" else ""
    return ""


def own_attributes(node: ast.AST, use: type[ast.expr_context] = ast.expr_context) -> Iterator[str]:
    """Yield the names of the attributes of ``self`` in a piece of a method.

    Args:
        node: A method, or a part of it.
        use: Whether those that are set or those that are read; all of them by default.
    """
    for each in ast.walk(node):
        if (name := own_attribute(each)) and isinstance(getattr(each, "ctx", None), use):
            yield name


def own_classes(built: Built) -> Iterator[tuple[type, str, str]]:
    """Yield the classes of the user's own, with their keys and their source.

    Args:
        built: What the spec names.
    """
    keys = keys_of_classes(built.spec)
    parts = [(each, "trainer.callbacks") for each in built.trainer.callbacks]
    for part, default in (*parts, (built.model, "model"), (built.data, "data")):
        for kind, source in sources_of(part, but=("getiaction",)):
            key = keys.get(f"{kind.__module__}.{kind.__qualname__}", default)
            yield kind, kind.__name__ if built.script else key, source
