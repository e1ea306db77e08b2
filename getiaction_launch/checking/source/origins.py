"""What a value in a script may come from, through all names that it goes by."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator


class Origins:
    """The expressions that each name in a script may stand for, whatever their order.

    A name is taken for the same one wherever it stands, as variable, attribute or argument. So
    more is found than can come from there, and what is not found does not.

    Args:
        tree: The syntax tree of the script.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._meanings: dict[str, list[ast.expr]] = defaultdict(list)
        nodes, calls = [*ast.walk(tree)], defaultdict(list)
        for node in nodes:
            if isinstance(node, ast.Call):
                calls[_last(node.func)].append(node)
        for node in nodes:
            found = _meanings_of(node)
            if isinstance(node, ast.FunctionDef):
                found = _given(node, calls[node.name])
            for name, value in found:
                self._meanings[name].append(value)

    def of(self, node: ast.expr) -> set[str]:
        """Return the strings, and the last parts of the names, that a value may come from.

        Args:
            node: An expression of the script.
        """
        strings: set[str] = set()
        names: set[str] = set()
        todo = [node]
        while todo:
            for part in ast.walk(todo.pop()):
                if isinstance(part, ast.Constant):
                    strings.add(str(part.value))
                if (name := _last(part)) and name not in names:
                    names.add(name)
                    todo += self._meanings[name]
        return strings | names


def _last(node: ast.AST) -> str:
    """Return a name, or the last part of one with dots."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _meanings_of(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield the names that a statement or call sets, each with what it is set to."""
    if isinstance(node, ast.Assign):
        yield from _pairs(node.targets, node.value)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr)) and node.value:
        yield from _pairs([node.target], node.value)
    elif isinstance(node, (ast.For, ast.comprehension)):
        yield from _pairs([node.target], node.iter)
    elif isinstance(node, ast.withitem) and node.optional_vars:
        yield from _pairs([node.optional_vars], node.context_expr)
    elif isinstance(node, ast.Call):
        yield from ((word.arg, word.value) for word in node.keywords if word.arg)
        if _last(node.func) == "add_argument":
            names = (each.value for each in node.args if isinstance(each, ast.Constant))
            values = [word.value for word in node.keywords]
            for name in names:
                yield from ((str(name).lstrip("-").replace("-", "_"), each) for each in values)


def _pairs(targets: Iterable[ast.expr], value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    for target in targets:
        for part in ast.walk(target):
            if isinstance(getattr(part, "ctx", None), ast.Store) and (name := _last(part)):
                yield name, value


def _given(function: ast.FunctionDef, calls: Iterable[ast.Call]) -> Iterator[tuple[str, ast.expr]]:
    """Yield the parameters of a function with what it is given, and its name with its results."""
    parameters = [*function.args.posonlyargs, *function.args.args]
    defaults = zip(reversed(parameters), reversed(function.args.defaults), strict=False)
    named = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    for parameter, default in (*defaults, *named):
        if default is not None:
            yield parameter.arg, default
    is_bound = bool(parameters) and parameters[0].arg in ("self", "cls")
    own = parameters[1:] if is_bound else parameters
    for call in calls:
        yield from ((each.arg, value) for each, value in zip(own, call.args, strict=False))
    for node in ast.walk(function):
        if isinstance(node, (ast.Return, ast.Yield)) and node.value:
            yield function.name, node.value
