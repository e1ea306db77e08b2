"""Modules as Python would find them, with the names that their source defines."""

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.errors import nearest_first

_DYNAMIC = {"*", "__getattr__", "globals", "setattr", "exec", "lazy_load", "LazyModule", "attach"}
_DYNAMIC |= {"vars", "locals", "__dict__"}
"""Names in the source of a module that may define others."""
_REPLACING = {"sys", "modules"}
"""What a module mentions that puts another object in its place."""
_BUILT_IN = {*sys.builtin_module_names, "__main__", "__mp_main__"}
_OF_EVERY_MODULE = {"__name__", "__file__", "__doc__", "__path__", "__spec__"}
_PIP = {"cv2": "opencv-python", "PIL": "pillow", "yaml": "PyYAML", "sklearn": "scikit-learn"}


class Finder:
    """Finds modules as Python does, but does not run the packages that they are in.

    Args:
        path: The directories to look in, in their order.
        own: How many of them, at the beginning, hold modules of the user's own.
    """

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
        top = module.partition(".")[0]
        found = self._complaint(module, names)
        if found and (own := self._in_place_of(top)):
            what = f"{found[0]} That is {own}, which is imported in place of the package {top!r}."
            return what, f"Rename it: mv {own} my_{own.name}"
        return found

    def _in_place_of(self, top: str) -> Path | None:
        """Return a module beside the script that hides an installed package of its name."""
        is_own = bool(top) and top not in sys.stdlib_module_names and self.is_installed(top)
        here = self._find(top, self._path[: self._own]) if is_own else None
        return Path(Path(here.origin).name) if here and here.origin else None

    def _complaint(self, module: str, names: list[str]) -> tuple[str, str] | None:
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
            if places is None:  # a module that may define more than its file says
                is_hiding = _defined(spec) is not None and self._in_place_of(top)
                return (f"{top} is not a package here.", "") if is_hiding else None
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
    return {name for node in ast.walk(tree) for name in words_in(node)}


def words_in(node: ast.AST) -> Iterator[str]:
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
