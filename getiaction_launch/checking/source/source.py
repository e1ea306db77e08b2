"""A script that was read: its syntax tree, with what several checks ask of it."""

import ast
import functools
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from getiaction_launch.checking.finding import Finding
from getiaction_launch.checking.source.constants import Constants
from getiaction_launch.checking.source.origins import Origins
from getiaction_launch.checking.source.reach import always_executed

_OTHERS = {"torch", "torchvision", "numpy", "matplotlib"}
"""Packages besides the standard library that make no directory and divide no samples unasked."""


class Names:
    """What each name in a script means, as far as its imports say so.

    Args:
        tree: The syntax tree of the script.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._names: dict[str, str] = {}
        self.modules: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.modules.add(alias.name.partition(".")[0])
                    short = alias.asname or alias.name.partition(".")[0]
                    self._names[short] = alias.name if alias.asname else short
            elif isinstance(node, ast.ImportFrom) and node.module:
                self.modules.add(node.module.partition(".")[0])
                for alias in node.names:
                    self._names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def of(self, node: ast.expr) -> str:
        """Return the whole name of what is called; empty if it is not known."""
        text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
        first, dot, rest = text.partition(".")
        return f"{self._names[first]}{dot}{rest}" if first in self._names else ""


class Source:
    """A script.

    Args:
        path: The path of the script, which can be parsed.

    Attributes:
        path: Where the script is.
        name: The name of its file, for messages.
        tree: The syntax tree of the script.
        names: What each name in it means.
        constants: The names that it sets once, to a literal.
        certain: The nodes that every good run executes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.tree = ast.parse(path.read_bytes(), str(path))
        self.names, self.constants = Names(self.tree), Constants(self.tree)
        self.certain = always_executed(self.tree)

    @functools.cached_property
    def text(self) -> str:
        """The script without its comments."""
        return ast.unparse(self.tree)

    @functools.cached_property
    def origins(self) -> Origins:
        """What each name in the script may come from."""
        return Origins(self.tree)

    @property
    def is_alone(self) -> bool:
        """Whether a script does all that it does itself, as no module of others could do it."""
        is_relative = any(getattr(node, "level", 0) for node in ast.walk(self.tree))
        return self.names.modules <= sys.stdlib_module_names | _OTHERS and not is_relative

    def at(self, node: ast.expr | ast.stmt) -> str:
        """Return file and line of a node, for messages."""
        return f"{self.name}:{node.lineno}"

    def argument(
        self, node: ast.Call, positions: Mapping[str, int], names: Collection[str] = ()
    ) -> ast.expr | None:
        """Return what a call gives to a function that is known by its name; None if nothing.

        Args:
            node: A call in the script.
            positions: Where the argument stands in calls of each function.
            names: How it is called where it is given by name.
        """
        position = positions.get(self.called(node))
        if position is None:
            return None
        named = (word.value for word in node.keywords if word.arg in names)
        return next(iter([*node.args[position : position + 1], *named]), None)

    def called(self, node: ast.Call) -> str:
        """Return the whole name of what is called, or how it is written if that is not known."""
        return self.names.of(node.func) or ast.unparse(node.func)

    def judged(self, finding: Finding, node: ast.AST) -> Finding:
        """Return what was found at a node; a doubt only if a good run may never get there.

        That is so for what stands below an ``if`` or a ``try``, or in a function that only they
        call.

        Args:
            finding: What a check has found.
            node: Where in the script it was found.
        """
        return finding if node in self.certain else replace(finding, verdict="doubtful")


def uses_fabric(source: Source) -> bool:
    """Return whether a script trains by Lightning Fabric, with a loop of its own."""
    calls = [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    called = {source.called(call).rpartition(".")[2] for call in calls}
    return "Fabric" in called and not called & {"Trainer", "LightningCLI"}
