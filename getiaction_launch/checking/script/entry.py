"""What a script does when it is started, which may be nothing."""

import ast
import re
import sys
from collections.abc import Iterator

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.source.reach import is_main
from getiaction_launch.checking.source.source import Source

_NEVER_THE_NAME = ("main", "__main", "main__", "_main_", "__name__", "__Main__")
_KNOWN = {"torch", "torchvision", "numpy", "matplotlib", "lightning", "pytorch_lightning"}
_KNOWN |= {"getiaction", "tqdm", "torchmetrics", "wandb", "yaml", "einops"}
"""Packages that train nothing when they are imported, besides the standard library."""
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_TRAINS = re.compile(r"\.(fit|backward)\(|optimizer\.step\(|LightningCLI")
_DYNAMIC = re.compile(r"globals|locals|eval|exec|getattr|modules|runpy|atexit|__main__\.")
"""What may call a function whose name stands nowhere."""


def check_entry(source: Source) -> Iterator[Finding]:
    """Find a script that defines what trains, and ends without it.

    Args:
        source: The script, as it was read.
    """
    found = list(_of_guard(source))
    yield from found or _of_no_call(source)


def _of_guard(source: Source) -> Iterator[Finding]:
    """Find a main guard that is never true."""
    guards = [node for node in source.tree.body if isinstance(node, ast.If)]
    if any(is_main(node.test) or node.orelse for node in guards):
        return
    for node in guards:
        test = node.test
        if isinstance(test, ast.Compare) and ast.unparse(test.left) == "__name__":
            (*_, last) = test.comparators
            if not isinstance(last, ast.Constant) or not isinstance(test.ops[0], ast.Eq):
                continue
            if last.value in _NEVER_THE_NAME:
                what = f"{source.at(node)}: __name__ is never {last.value!r}, so nothing is run."
                yield refusal("script", "__name__", what, "Write: if __name__ == '__main__':")


def _of_no_call(source: Source) -> Iterator[Finding]:
    """Find a function that trains, where nothing that the script executes mentions it."""
    defined = [node for node in ast.walk(source.tree) if isinstance(node, _DEFINITIONS)]
    functions = {node.name: node for node in source.tree.body if isinstance(node, ast.FunctionDef)}
    trains = [name for name, node in functions.items() if _TRAINS.search(ast.unparse(node))]
    if trains and "main" in functions:
        trains.insert(0, "main")
    is_relative = any(getattr(node, "level", 0) for node in ast.walk(source.tree))
    is_known = source.names.modules <= sys.stdlib_module_names | _KNOWN and not is_relative
    is_decorated = any(node.decorator_list for node in functions.values())
    if not trains or not is_known or is_decorated or _DYNAMIC.search(source.text):
        return
    names, bare, calls = {node.name for node in defined}, None, False
    for statement in _started(source.tree):
        if _TRAINS.search(ast.unparse(statement)):
            return
        nodes = list(ast.walk(statement))
        calls = calls or any(isinstance(node, ast.Call) for node in nodes)
        if isinstance(statement, ast.Expr) and ast.unparse(statement) in trains:
            bare = statement
        elif any(isinstance(node, ast.Name) and node.id in names for node in nodes):
            return
    if calls and bare is None:
        return  # it does something else, such as to evaluate
    name = ast.unparse(bare) if bare else trains[0]
    words = "..." if functions[name].args.args else ""
    at = source.at(bare or functions[name])
    what = f"{at}: {name} is never called, so the run would end at once, without training."
    where = "Call it" if bare else "At the end of the script: if __name__ == '__main__'"
    yield refusal("script", name, what, f"{where}: {name}({words})")


def _started(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield what a script executes besides its definitions."""
    for statement in tree.body:
        if isinstance(statement, ast.If) and is_main(statement.test):
            yield from statement.body
            yield from statement.orelse
        elif isinstance(statement, ast.ClassDef):
            yield from (each for each in statement.body if not isinstance(each, _DEFINITIONS))
        elif not isinstance(statement, (*_DEFINITIONS, ast.Import, ast.ImportFrom)):
            yield statement
