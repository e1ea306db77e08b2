"""Which parts of a script are executed in every run, as far as its syntax says so."""

import ast
import re
from collections.abc import Iterable, Iterator

Functions = dict[str, ast.FunctionDef]
_ENDING = {"exit", "quit", "_exit", "abort", "execv", "execve", "execvp", "execvpe"}
_APART = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
"""What is only defined where it stands."""
FORGIVING = re.compile("suppress|try|import|optional|catch|ignore|raises", re.IGNORECASE)
"""Context managers that may swallow what is raised below them, such as a failed import."""
_CHOOSING = re.compile("rank|process|master|only", re.IGNORECASE)
"""Decorators by which a function is perhaps not executed by each rank."""
_CONDITIONS = (ast.If, ast.IfExp, ast.Try, ast.Match, ast.BoolOp)


def functions_of(tree: ast.Module) -> Functions:
    """Return the functions of a script by name, without those that it defines twice or perhaps.

    Args:
        tree: The syntax tree of the script.
    """
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {node.name: node for node in found if names.count(node.name) == 1}


def is_main(test: ast.expr) -> bool:
    """Return whether a condition is that of a main guard.

    Args:
        test: The condition of an ``if``.
    """
    return ast.unparse(test) in ("__name__ == '__main__'", "'__main__' == __name__")


def may_leave(statement: ast.stmt, *, is_caught: bool) -> bool:
    """Return whether what stands behind a statement may never be executed in a good run.

    Args:
        statement: A statement of the script.
        is_caught: Whether somebody may catch what it raises.
    """
    for node in _executed([statement]):
        if isinstance(node, ast.Return) or (isinstance(node, ast.Raise) and is_caught):
            return True
        if isinstance(node, ast.Raise) and "SystemExit" in ast.unparse(node):
            return True
        if called_name(node) in _ENDING:
            return True
    return False


def always_executed(tree: ast.Module) -> set[ast.AST]:
    """Return all nodes of a script that every good run executes.

    Args:
        tree: The syntax tree of the script.
    """
    functions = functions_of(tree)
    found: set[ast.AST] = set()
    todo = [(tree.body, False)]
    while todo:
        body, is_caught = todo.pop()
        for node, can_catch in _certain(body, is_caught=is_caught):
            found.add(node)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = functions.pop(node.func.id, None)
                if called is not None and not any(map(_chooses, called.decorator_list)):
                    todo.append((called.body, can_catch))
    return found


def _chooses(decorator: ast.expr) -> bool:
    return bool(_CHOOSING.search(ast.unparse(decorator)))


def surely_executed(block: ast.FunctionDef | ast.If) -> set[ast.AST]:
    """Return the nodes of a function that each call of it executes, or of a condition if it holds.

    Args:
        block: A function or a method, or an ``if``.
    """
    return {node for node, _ in _certain(block.body, is_caught=False)}


def _certain(body: list[ast.stmt], *, is_caught: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield the nodes that stand below no condition, and whether what they raise may be caught."""
    for statement in body:
        if isinstance(statement, ast.If) and is_main(statement.test):
            yield from _certain(statement.body, is_caught=is_caught)
        elif isinstance(statement, ast.With):
            yield from ((node, is_caught) for node in _executed(statement.items, _CONDITIONS))
            if not any(FORGIVING.search(ast.unparse(item)) for item in statement.items):
                yield from _certain(statement.body, is_caught=True)
        else:
            yield from ((node, is_caught) for node in _executed([statement], _CONDITIONS))
        if may_leave(statement, is_caught=is_caught):
            return


def _executed(
    nodes: Iterable[ast.AST], conditions: tuple[type[ast.AST], ...] = ()
) -> Iterator[ast.AST]:
    """Yield nodes and what is below them, but not below definitions and conditions."""
    for node in nodes:
        if isinstance(node, _APART):
            continue
        yield node
        if isinstance(node, conditions):
            continue
        yield from _executed(ast.iter_child_nodes(node), conditions)


def called_name(node: ast.AST) -> str:
    """Return the last part of the name of what is called; empty for anything but a call by name."""
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
        return ast.unparse(node.func).rpartition(".")[2]
    return ""
