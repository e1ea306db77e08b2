"""Values in a script that are known without running it: literals, and names that hold one."""

import ast
from typing import Any


class Constants:
    """The names that a script sets once, to a literal.

    Args:
        tree: The syntax tree of the script.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._values: dict[str, ast.expr] = {}
        stored = [
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del))
        ]
        stored += [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                if isinstance(target, ast.Name) and stored.count(target.id) == 1:
                    self._values[target.id] = node.value
        # A mapping may be changed where it is used by its name.
        self._changed = {
            node.value.id
            for node in ast.walk(tree)
            if isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.value, ast.Name)
        }

    def value_of(self, node: ast.expr) -> Any:  # noqa: ANN401 - any literal
        """Return what an expression stands for; None if that is not known.

        Args:
            node: An expression of the script.
        """
        if isinstance(node, ast.Name) and node.id in self._values:
            node = self._values[node.id]
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None

    def expression_of(self, node: ast.expr) -> ast.expr:
        """Return what a name is set to, if it is set once; any other expression itself.

        Args:
            node: An expression of the script.
        """
        return self._values.get(node.id, node) if isinstance(node, ast.Name) else node

    def arguments_of(self, call: ast.Call) -> dict[str, Any]:
        """Return the arguments of a call by keyword; None for a value that is not known.

        Args:
            call: A call in the script, which may take a mapping by two stars.
        """
        given: dict[str, Any] = {}
        for word in call.keywords:
            if word.arg:
                given[word.arg] = self.value_of(word.value)
            else:
                given |= self._mapping(word.value)
        return given

    def _mapping(self, node: ast.expr) -> dict[str, Any]:
        if isinstance(node, ast.Name):
            if node.id not in self._values or node.id in self._changed:
                return {}
            node = self._values[node.id]
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            named = [(self.value_of(key), value) for key, value in pairs if key is not None]
            return {name: self.value_of(value) for name, value in named if isinstance(name, str)}
        is_dict = isinstance(node, ast.Call) and ast.unparse(node.func) == "dict"
        return self.arguments_of(node) if is_dict and isinstance(node, ast.Call) else {}
