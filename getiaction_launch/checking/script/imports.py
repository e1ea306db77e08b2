"""Imports of a script that cannot be found, without importing anything."""

import ast
import builtins
import contextlib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal, unknown
from getiaction_launch.checking.script.finder import Finder, words_in
from getiaction_launch.checking.source.reach import FORGIVING, functions_of, is_main, may_leave

_CATCHING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_CHANGES_PATH = re.compile(
    r"sys\.(path|modules|meta_path)|\bpath\.(insert|append|extend)\b|addsitedir|setup_root|autoroot"
    r"|from sys import .*\b(path|modules|meta_path)\b"
)


def check_imports(
    tree: ast.Module, script: Path, shipped: str | None = None, name: str | None = None
) -> Iterator[Finding]:
    """Find imports that fail wherever a script is run, in the script and in modules beside it.

    Args:
        tree: The syntax tree of the script.
        script: The path of the script, whose directory is searched first.
        shipped: A directory that the workers search too, such as the one that they are started in.
        name: The whole name of the module that the script is run as; its own directory is not
            searched then.
    """
    own = [str(place) for place in (None if name else script.parent, shipped) if place]
    finder = Finder([*own, *sys.path[1:]], len(own))
    if not name and (other := _shadowed(tree, script, finder)) is not None:
        what = f"{script.name}: the script is imported in place of {other!r}."
        fix = f"Rename the script: mv {script.name} run_{script.name}"
        yield refusal("imports", other, what, fix)
        return
    files = _Files(script, tree, Path(shipped) if name and shipped else None)
    package = name or "" if script.stem == "__main__" else (name or "").rpartition(".")[0]
    found: dict[tuple[str, str], Finding] = {}
    uncertain: list[str] = []
    for file, content in files:
        for node in _unconditional(content.body, functions_of(content)):
            for module, names in _imports(node, package if file == script else ""):
                is_trusted = file != script or files.is_in_package  # its package says where it is
                if module.startswith(".") and is_trusted:
                    continue
                complaint = finder.complaint(module, names)
                if complaint and files.may_be_around(module):
                    uncertain.append(module)
                elif complaint and complaint not in found:
                    what = f"{file.name}:{node.lineno}: {complaint[0]}"
                    found[complaint] = refusal("imports", module, what, complaint[1])
    if files.change_path:
        uncertain += [finding.key for finding in found.values() if not finder.is_sure(finding.key)]
    yield from (finding for finding in found.values() if finding.key not in uncertain)
    if uncertain:
        why = f"{uncertain[0]} may lie where Python looks for modules on the workers"
        yield unknown("imports", why)


def _shadowed(tree: ast.Module, script: Path, finder: "Finder") -> str | None:
    """Return the module that a script imports, and gets itself instead of it, if any."""
    stem = script.stem
    here = importlib.machinery.PathFinder.find_spec(stem, [str(script.parent)])
    is_script = here is not None and here.origin is not None and Path(here.origin) == script
    if not is_script or stem in sys.builtin_module_names or not finder.is_installed(stem):
        return None
    defined = {name for node in ast.walk(tree) for name in words_in(node)}
    for node in _unconditional(tree.body, functions_of(tree)):
        for module, names in _imports(node):
            if module.partition(".")[0] == stem and not (names and defined.issuperset(names)):
                return module
    return None


class _Files:
    """A script and the modules of the user's own that it imports, as they are found.

    Args:
        script: The path of the script.
        tree: The syntax tree of the script.
        home: The directory in which a module is started; None for a script.

    Attributes:
        change_path: Whether one of those read so far changes where Python looks for modules.
        is_in_package: Whether the script says itself in which package it is.
    """

    def __init__(self, script: Path, tree: ast.Module, home: Path | None = None) -> None:
        self.change_path = False
        self._home, self._is_module = home or script.parent, home is not None
        self.is_in_package = any(
            isinstance(node, ast.Name) and node.id == "__package__" and _is_set(node)
            for node in ast.walk(tree)
        )
        self._script = script
        self._tree = tree

    def __iter__(self) -> Iterator[tuple[Path, ast.Module]]:
        """Yield the script and all modules beside it that are always imported, with their trees."""
        seen = {self._script.resolve()}
        todo = [(self._script, self._tree)]
        while todo:
            file, content = todo.pop()
            self._look_around(content)
            yield file, content
            for node in _unconditional(content.body, functions_of(content)):
                for module, _ in _imports(node):
                    beside = self._home / f"{module}.py"
                    if beside.resolve() not in seen and beside.is_file():
                        seen.add(beside.resolve())
                        with contextlib.suppress(OSError, SyntaxError, ValueError):
                            todo.append((beside, ast.parse(beside.read_bytes())))

    def may_be_around(self, module: str) -> bool:
        """Return whether a module lies above the script, or where the command was started.

        For a module that is run there, nothing else is searched.
        """
        if self._is_module:
            return False
        top = module.partition(".")[0]
        folders = (*self._script.resolve().parents[1:], Path.cwd())
        beside = self._script.resolve().parent
        places = [folder / top for folder in folders if top and folder != beside]
        return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)

    def _look_around(self, tree: ast.Module) -> None:
        """Look for changes of the path in a file, and in files of packages that it imports."""
        texts = [ast.unparse(tree)]
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for module, names in _imports(node):
                    texts += self._texts(module, names)
        self.change_path = self.change_path or any(map(_CHANGES_PATH.search, texts))

    def _texts(self, module: str, names: list[str]) -> Iterator[str]:
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            place = self._home.joinpath(*parts[:end])
            files = [place.with_suffix(".py"), place / "__init__.py"]
            if end == len(parts):
                files += [place / f"{name}.py" for name in names]
            for file in files:
                with contextlib.suppress(OSError, ValueError):
                    yield file.read_text(encoding="utf-8")


def _is_set(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def count_imports(tree: ast.Module) -> int:
    """Return how many modules a script imports, whatever else it does."""
    return sum(1 for node in _unconditional(tree.body, {}) for _ in _imports(node))


def _unconditional(
    body: list[ast.stmt], functions: dict[str, ast.FunctionDef], *, is_caught: bool = False
) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that are always executed, and whose failure nobody catches."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.With):
            if not any(FORGIVING.search(ast.unparse(item)) for item in node.items):
                yield from _unconditional(node.body, functions, is_caught=True)
        elif isinstance(node, ast.Try):
            if not any(_catches(handler.type) for handler in node.handlers):
                is_inner = is_caught or bool(node.handlers)
                yield from _unconditional(node.body, functions, is_caught=is_inner)
            yield from _unconditional(node.finalbody, functions, is_caught=is_caught)
        elif isinstance(node, ast.If) and is_main(node.test):
            yield from _unconditional(node.body, functions, is_caught=is_caught)
        elif (called := _called(node)) in functions:
            others = {name: each for name, each in functions.items() if name != called}
            yield from _unconditional(functions[called].body, others, is_caught=is_caught)
        if may_leave(node, is_caught=is_caught):
            return


def _called(node: ast.stmt) -> str:
    """Return the function that a statement calls, if that is all it does."""
    value = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""


def _catches(kind: ast.expr | None) -> bool:
    """Whether a handler of that type may catch a failed import."""
    if kind is None:
        return True
    names = {each.id for each in ast.walk(kind) if isinstance(each, ast.Name)}
    return bool(names & _CATCHING) or not names <= set(vars(builtins))


def _imports(
    node: ast.Import | ast.ImportFrom, package: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Yield the modules that a statement imports, and the names that it takes from each.

    Args:
        node: The statement that imports.
        package: The package that the importing module is in, if that is known.
    """
    if isinstance(node, ast.Import):
        yield from ((alias.name, []) for alias in node.names)
    elif node.level == 0 and node.module:
        yield node.module, [alias.name for alias in node.names]
    elif package and node.level <= package.count(".") + 1:
        above = package.split(".")[: package.count(".") + 2 - node.level]
        yield ".".join(filter(None, [*above, node.module])), [alias.name for alias in node.names]
    elif node.level:
        yield "." * node.level + (node.module or ""), []
