"""Scripts that start processes by spawning, which import the script again, need a main guard."""

import ast
from collections.abc import Iterator

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.source.source import Names, Source

_METHODS = {"spawn", "forkserver"}
_STARTS = {"Process", "Pool", "ProcessPoolExecutor", "spawn", "start_processes"}
_PACKAGES = ("multiprocessing", "torch", "concurrent")
_THREADS = "multiprocessing.dummy"


def check_guard(source: Source) -> Iterator[Finding]:
    """Find a start of processes at the top level of a script that spawns them.

    Args:
        source: The script, as it was read.
    """
    tree, names = source.tree, source.names
    if not any(_spawns(node, names) for node in ast.walk(tree)):
        return
    starts = _Starts(tree, names)
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import)):
            continue
        if _is_guard(statement):
            continue
        if started := next(starts.of(statement, set()), None):
            yield refusal(
                "processes",
                "__main__",
                f"{source.at(statement)}: {started} starts processes that import this "
                "script again, and it has no main guard.",
                "Put what the script does below: if __name__ == '__main__':",
            )
            return


def has_guard(source: Source) -> bool:
    """Return whether a script says itself what it does only if it is run, and not imported.

    Args:
        source: The script, as it was read.
    """
    return any(map(_is_guard, ast.walk(source.tree)))


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


def _is_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


class _Starts:
    """Finds what starts processes, also in the script's functions that are called."""

    def __init__(self, tree: ast.Module, names: Names) -> None:
        self._names = names
        self._functions = {
            node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)
        }
        self._contexts = {
            target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and "get_context(" in ast.unparse(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        # A loader starts processes where it is iterated, which a guard may be for.
        self._loaders_start = not any(_is_guard(node) for node in tree.body)

    def of(self, node: ast.AST, seen: set[str]) -> Iterator[str]:
        """Yield what starts processes in a statement."""
        for each in ast.walk(node):
            if not isinstance(each, ast.Call):
                continue
            name = ast.unparse(each.func)
            is_loader = name.rpartition(".")[2].endswith("DataLoader") and any(
                word.arg == "num_workers" and ast.unparse(word.value) != "0"
                for word in each.keywords
            )
            if self._is_start(each.func) or (is_loader and self._loaders_start):
                yield f"{name}(...)"
            elif name in self._functions and name not in seen:
                seen.add(name)
                yield from self.of(self._functions[name], seen)

    def _is_start(self, called: ast.expr) -> bool:
        text = ast.unparse(called)
        whole = self._names.of(called) or text
        if whole.rpartition(".")[2] not in _STARTS or whole.startswith(_THREADS):
            return False
        is_known = bool(self._names.of(called)) and whole.startswith(_PACKAGES)
        return is_known or text.partition(".")[0] in self._contexts or "get_context(" in text
