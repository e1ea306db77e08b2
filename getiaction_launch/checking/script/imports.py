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
from getiaction_launch.checking.source.reach import FORGIVING, functions_of, is_main, may_leave
from getiaction_launch.errors import nearest_first

_CATCHING = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
_DYNAMIC = {"*", "__getattr__", "globals", "setattr", "exec", "lazy_load", "LazyModule", "attach"}
_DYNAMIC |= {"vars", "locals", "__dict__"}
"""Names in the source of a module that may define others."""
_REPLACING = {"sys", "modules"}
"""What a module mentions that puts another object in its place."""
_CHANGES_PATH = re.compile(
    r"sys\.(path|modules|meta_path)|\bpath\.(insert|append|extend)\b|addsitedir|setup_root|autoroot"
    r"|from sys import .*\b(path|modules|meta_path)\b"
)
_BUILT_IN = {*sys.builtin_module_names, "__main__", "__mp_main__"}
_OF_EVERY_MODULE = {"__name__", "__file__", "__doc__", "__path__", "__spec__"}
_PIP = {"cv2": "opencv-python", "PIL": "pillow", "yaml": "PyYAML", "sklearn": "scikit-learn"}


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
    finder = _Finder([*own, *sys.path[1:]], len(own))
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


def _shadowed(tree: ast.Module, script: Path, finder: "_Finder") -> str | None:
    """Return the module that a script imports, and gets itself instead of it, if any."""
    stem = script.stem
    here = importlib.machinery.PathFinder.find_spec(stem, [str(script.parent)])
    is_script = here is not None and here.origin is not None and Path(here.origin) == script
    if not is_script or stem in sys.builtin_module_names or not finder.is_installed(stem):
        return None
    defined = {name for node in ast.walk(tree) for name in _words(node)}
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


class _Finder:
    """Finds modules as Python does, but does not run the packages that they are in."""

    def __init__(self, path: list[str], own: int) -> None:
        self._path = path
        self._own = own

    def is_installed(self, module: str) -> bool:
        """Return whether the top of a module is there without what is beside the script."""
        top = module.partition(".")[0]
        if top in _BUILT_IN or top in sys.stdlib_module_names:
            return True
        return bool(top) and self._find(top, self._path[self._own :]) is not None

    def is_sure(self, module: str) -> bool:
        """Return whether a complaint holds wherever else Python may look for modules."""
        return module.startswith(".") or self.is_installed(module)

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
    if found is None or found & _DYNAMIC or found >= _REPLACING:
        return None
    return found | _OF_EVERY_MODULE


def _makes_modules(spec: importlib.machinery.ModuleSpec) -> bool:
    """Whether a package may have modules that are not files in it."""
    found = _names_in(spec)
    return found is None or bool(found & {"modules", "meta_path", "__path__"})


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
