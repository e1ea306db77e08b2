"""Imports of a script that cannot be found, without importing anything."""

import ast
import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.errors import nearest_first

_CATCHING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_DYNAMIC = {"*", "__getattr__", "globals", "setattr", "exec", "lazy_load", "LazyModule", "attach"}
"""Names in the source of a module that may define others."""
_BUILT_IN = {*sys.builtin_module_names, "__main__", "__mp_main__"}
_OF_EVERY_MODULE = {"__name__", "__file__", "__doc__", "__path__", "__spec__"}
_PIP = {"cv2": "opencv-python", "PIL": "pillow", "yaml": "PyYAML", "sklearn": "scikit-learn"}


def check_imports(tree: ast.Module, script: Path, shipped: str | None = None) -> Iterator[Finding]:
    """Find imports that fail wherever a script is run, in the script and in modules beside it.

    Args:
        tree: The syntax tree of the script.
        script: The path of the script, whose directory is searched first.
        shipped: A directory that is copied to the workers, and that they search too.
    """
    is_path_changed = "sys.path" in ast.unparse(tree)
    own = [str(script.parent), *([str(shipped)] if shipped else [])]
    finder = _Finder([*own, *sys.path[1:]])
    seen: set[tuple[str, str] | Path] = {script.resolve()}
    todo = [(script, tree)]
    while todo:
        file, content = todo.pop()
        for node in _unconditional(content.body, _functions(content)):
            for module, names in _imports(node):
                at = f"{file.name}:{node.lineno}"
                if module.partition(".")[0] == script.stem:
                    what = f"{at}: the script is imported in place of {module!r}."
                    fix = f"Rename the script: mv {script.name} train.py"
                    yield refusal("imports", module, what, fix)
                    return
                if module.startswith(".") and file != script:
                    continue  # it is in a package, whose own files are trusted
                found = finder.complaint(module, names)
                if found and is_path_changed and found[0].startswith("no module"):
                    continue  # it may lie where the script has Python look
                if found and found not in seen:
                    seen.add(found)
                    yield refusal("imports", module, f"{at}: {found[0]}", found[1])
                beside = script.parent / f"{module}.py"
                if beside.resolve() not in seen and beside.is_file():
                    seen.add(beside.resolve())
                    with contextlib.suppress(OSError, SyntaxError, ValueError):
                        todo.append((beside, ast.parse(beside.read_bytes())))


def count_imports(tree: ast.Module) -> int:
    """Return how many modules a script imports, whatever else it does."""
    return sum(1 for node in _unconditional(tree.body, {}) for _ in _imports(node))


_Functions = dict[str, ast.FunctionDef]


def _functions(tree: ast.Module) -> _Functions:
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def _unconditional(
    body: list[ast.stmt], functions: _Functions
) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports that are always executed, and whose failure nobody catches."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, (ast.Return, ast.Raise)):
            return
        elif isinstance(node, ast.With):
            if not any("suppress" in ast.dump(item) for item in node.items):
                yield from _unconditional(node.body, functions)
        elif isinstance(node, ast.Try):
            caught = {name for handler in node.handlers for name in _names(handler.type)}
            if not caught & _CATCHING:
                yield from _unconditional(node.body, functions)
            yield from _unconditional(node.finalbody, functions)
        elif isinstance(node, ast.If) and _is_main(node.test):
            yield from _unconditional(node.body, functions)
        elif (called := _called(node)) in functions:
            others = {name: each for name, each in functions.items() if name != called}
            yield from _unconditional(functions[called].body, others)


def _called(node: ast.stmt) -> str:
    """Return the function that a statement calls, if that is all it does."""
    value = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
    return value.func.id if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else ""


def _names(node: ast.expr | None) -> set[str]:
    if node is None:
        return {"BaseException"}
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def _is_main(test: ast.expr) -> bool:
    return ast.unparse(test) in ("__name__ == '__main__'", "'__main__' == __name__")


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, list[str]]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, []) for alias in node.names)
    elif node.level == 0 and node.module:
        yield node.module, [alias.name for alias in node.names]
    elif node.level:
        yield "." * node.level + (node.module or ""), []


class _Finder:
    """Finds modules as Python does, but does not run the packages that they are in."""

    def __init__(self, path: list[str]) -> None:
        self._path = path

    def complaint(self, module: str, names: list[str]) -> tuple[str, str] | None:
        """Return what is wrong with an import, and the fix; None if nothing is known to be."""
        if module.startswith("."):
            return (
                f"from {module} import ... is relative, and a script is in no package.",
                "Write the whole name, or start it as a module of its package",
            )
        top = module.partition(".")[0]
        spec = self._find(top, None)
        if spec is None:
            return self._missing(top)
        for end in range(1, module.count(".") + 1):
            name = ".".join(module.split(".")[: end + 1])
            places = spec.submodule_search_locations
            if places is None:
                return None  # a module that may define more than its file says
            inner = self._find(name, list(places))
            if inner is None:
                last = name.rpartition(".")[2]
                if _makes_modules(spec):
                    return None
                return f"{spec.name} has no module {last!r}.", nearest_first(last, _below(spec))
            spec = inner
        return self._missing_name(spec, names)

    def _missing(self, top: str) -> tuple[str, str]:
        modules = [path.stem for path in Path(self._path[0]).glob("*.py")]
        near = nearest_first(top, modules)
        pip = f"pip install {_PIP.get(top, top)}"
        own = f" {near}" if near.startswith("Did you mean") else ""
        return f"no module named {top!r} here.", f"Install it where the workers run: {pip}{own}"

    def _missing_name(
        self, spec: importlib.machinery.ModuleSpec, names: list[str]
    ) -> tuple[str, str] | None:
        defined = _defined(spec)
        if defined is None or "*" in names:
            return None
        places = list(spec.submodule_search_locations or ())
        for name in names:
            if name not in defined and not (places and self._find(f"{spec.name}.{name}", places)):
                near = nearest_first(name, [word for word in defined if word[0] != "_"])
                return f"cannot import {name!r} from {spec.name}.", near
        return None

    def _find(self, name: str, path: list[str] | None) -> importlib.machinery.ModuleSpec | None:
        if path is None and (name in _BUILT_IN or name in sys.stdlib_module_names):
            return importlib.machinery.ModuleSpec(name, None)
        # By its last name, since a namespace package looks for its parent among imported modules.
        last = name.rpartition(".")[2]
        found = importlib.machinery.PathFinder.find_spec(last, path or self._path)
        if found is not None:
            found.name = name
        if found is None and path is None:
            try:  # finders of editable installs
                found = importlib.util.find_spec(name)
            except (ImportError, ValueError, AttributeError):
                found = None
        return found


def _defined(spec: importlib.machinery.ModuleSpec) -> set[str] | None:
    """Return the names that a module's source defines; None if that cannot be known."""
    found = _names_in(spec)
    return None if found is None or found & _DYNAMIC else found | _OF_EVERY_MODULE


def _makes_modules(spec: importlib.machinery.ModuleSpec) -> bool:
    """Whether a package may have modules that are not files in it."""
    found = _names_in(spec)
    return found is None or bool(found & {"modules", "__path__"})


def _names_in(spec: importlib.machinery.ModuleSpec) -> set[str] | None:
    if not spec.origin or not spec.origin.endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(spec.origin).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None
    return {name for node in ast.walk(tree) for name in _words(node)}


def _words(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node defines or uses; a star for all names of another module."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr


def _below(spec: importlib.machinery.ModuleSpec) -> list[str]:
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    return [path.stem for place in places for path in place.iterdir() if path.stem[0] != "_"]
