"""Scripts that start processes by spawning, which import the script again, need a main guard."""

import ast
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.script.calls import Names

_METHODS = {"spawn", "forkserver"}
_STARTS = {"Process", "Pool", "ProcessPoolExecutor", "spawn", "start_processes"}


def check_guard(tree: ast.Module, script: Path) -> Iterator[Finding]:
    """Find a start of processes at the top level of a script that spawns them.

    Args:
        tree: The syntax tree of the script.
        script: The path of the script.
    """
    names = Names(tree)
    if not any(_spawns(node, names) for node in ast.walk(tree)):
        return
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import)):
            continue
        if isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test):
            continue
        if started := next(_starts(statement, functions, set()), None):
            yield refusal(
                "processes",
                "__main__",
                f"{script.name}:{statement.lineno}: {started} starts processes that import this "
                "script again, and it has no main guard.",
                "Put what the script does below: if __name__ == '__main__':",
            )
            return


def _spawns(node: ast.AST, names: Names) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = names.of(node.func) or (node.func.attr if isinstance(node.func, ast.Attribute) else "")
    last = called.rpartition(".")[2]
    if called == "torch.multiprocessing.spawn":
        return True
    words = [
        word.value for word in node.keywords if word.arg in ("multiprocessing_context", "method")
    ]
    values = [each for each in (*node.args[:1], *words) if isinstance(each, ast.Constant)]
    is_method = last in ("set_start_method", "get_context") or bool(words)
    return is_method and any(value.value in _METHODS for value in values)


def _starts(node: ast.AST, functions: dict[str, ast.FunctionDef], seen: set[str]) -> Iterator[str]:
    """Yield what starts processes in a statement, also in the script's functions that it calls."""
    for each in ast.walk(node):
        if not isinstance(each, ast.Call):
            continue
        name = ast.unparse(each.func)
        last = name.rpartition(".")[2]
        is_loader = last.endswith("DataLoader") and any(
            word.arg == "num_workers" and ast.unparse(word.value) != "0" for word in each.keywords
        )
        if last in _STARTS or is_loader:
            yield f"{name}(...)"
        elif name in functions and name not in seen:
            seen.add(name)
            yield from _starts(functions[name], functions, seen)
