"""Prints the dotted keys of a spec that complete a word, for a shell that asks on TAB.

``python -I keys.py CLI_CLASS WORD``, with the words of the command line in TYPED, one a line.
Classes are not imported, which takes seconds and runs their code, but read from their source; of
one that cannot be found so, only the keys in the spec are offered. The file stands alone, to start
fast, and imports nothing from the working directory, where somebody else's files may be.
"""

import ast
import contextlib
import importlib.machinery
import importlib.util
import os
import re
import site
import sys
from collections.abc import Iterator
from pathlib import Path

SECTIONS = ("trainer", "model", "data", "optimizer", "lr_scheduler")
DEEPEST = 8
LARGEST_BYTES = 1 << 20
_PLAIN = re.compile(r"--[\w.]+")
_SHORT = re.compile(r"\.init_args(?=\.)")


def module_file(name: str) -> Path | None:
    """Return the source file of a module; only its top package is looked up by Python."""
    top, *rest = name.split(".")
    own = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        spec = importlib.machinery.PathFinder.find_spec(top, own) or importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    file = Path(spec.origin) if spec.origin else None
    for part in rest:
        packages = [place / part for place in places if (place / part).is_dir()]
        modules = [place / f"{part}.py" for place in places if (place / f"{part}.py").is_file()]
        if not packages and not modules:
            return None
        file = packages[0] / "__init__.py" if packages else modules[0]
        places = packages
    return file if file and file.suffix == ".py" and file.is_file() else None


class Sources:
    """Classes as their source defines them, found through the imports of other modules."""

    def __init__(self) -> None:
        self._trees: dict[str, tuple[ast.Module, bool] | None] = {}

    def parameters(self, class_path: str, within: str) -> list[str]:
        """Return the names of the arguments of a class; none if it is not found.

        Args:
            class_path: Import path of the class, or a name that a module knows it by.
            within: Import path of that module.
        """
        found = self.find(class_path) if "." in class_path else self.find_in(within, class_path)
        names = dict.fromkeys(self._of_class(*found)) if found else ()
        return [name for name in names if not name.startswith("_")]

    def find(self, path: str, depth: int = 0) -> tuple[str, ast.ClassDef] | None:
        """Return the module that defines a class, and the definition."""
        module, _, name = path.rpartition(".")
        return self.find_in(module, name, depth) if module else None

    def find_in(self, module: str, name: str, depth: int = 0) -> tuple[str, ast.ClassDef] | None:
        """Return the same for a name that a module defines or imports."""
        parsed = self._parse(module)
        if parsed is None or depth > DEEPEST:
            return None
        tree, is_package = parsed
        nodes = list(ast.walk(tree))
        for node in nodes:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return module, node
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                place = _origin(module, node, is_package=is_package)
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return self.find_in(place, alias.name, depth + 1)
                    if alias.name == "*" and (found := self.find_in(place, name, depth + 1)):
                        return found
        return None

    def _of_class(self, module: str, node: ast.ClassDef, depth: int = 0) -> Iterator[str]:
        init = next(
            (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None
        )
        if init:
            arguments = [*init.args.posonlyargs, *init.args.args][1:] + init.args.kwonlyargs
            yield from (argument.arg for argument in arguments)
        elif any("dataclass" in ast.unparse(each) for each in node.decorator_list):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield field.target.id
        if depth < DEEPEST and (init is None or init.args.kwarg):
            for base in node.bases:
                if found := self._base(module, ast.unparse(base), depth):
                    yield from self._of_class(*found, depth + 1)

    def _base(self, module: str, name: str, depth: int) -> tuple[str, ast.ClassDef] | None:
        first, dot, rest = name.partition(".")
        parsed = self._parse(module)
        if not dot or parsed is None:
            return self.find_in(module, name, depth)
        for node in ast.walk(parsed[0]):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    if first == (alias.asname or alias.name.partition(".")[0]):
                        return self.find(f"{alias.name if alias.asname else first}.{rest}", depth)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if first == (alias.asname or alias.name):
                        place = _origin(module, node, is_package=parsed[1])
                        return self.find(f"{place}.{alias.name}.{rest}", depth)
        return None

    def _parse(self, module: str) -> tuple[ast.Module, bool] | None:
        if module not in self._trees:
            self._trees[module] = None
            file = module_file(module)
            if file and file.stat().st_size <= LARGEST_BYTES:
                with contextlib.suppress(OSError, SyntaxError, ValueError, RecursionError):
                    tree = ast.parse(file.read_text(encoding="utf-8"))
                    self._trees[module] = tree, file.name == "__init__.py"
        return self._trees[module]


def _origin(module: str, node: ast.ImportFrom, *, is_package: bool) -> str:
    """Return the module that ``from ... import`` names."""
    parts = module.split(".")
    above = parts[: len(parts) - node.level + is_package] if node.level else []
    return ".".join(filter(None, [*above, node.module or ""]))


def typed_spec(words: list[str]) -> tuple[list[dict[str, object]], dict[str, str]]:
    """Return the content of the specs on a command line, and the classes that are typed there."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    contents, classes = [], {}
    for flag, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = flag.partition("=")
        value = value if equals else following
        section = name[2:].removesuffix(".class_path")
        if name.startswith("--") and section in SECTIONS:
            classes[section] = value
        is_config = name == "--config" or (not equals and flag.endswith((".yaml", ".yml")))
        path = Path(value if name == "--config" else flag)
        with contextlib.suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
            if is_config and path.is_file() and path.stat().st_size <= LARGEST_BYTES:
                content = yaml.load(path.read_text(encoding="utf-8"), loader)  # noqa: S506 - safe
                contents += [content] if isinstance(content, dict) else []
    return contents, classes


class Keys:
    """The dotted keys below the sections of specs."""

    def __init__(self, cli_class: str) -> None:
        self._sources = Sources()
        found = self._sources.find(cli_class)
        self._home = found[0] if found else ""
        """The module whose imports are known by their bare names, the Trainer among them."""
        self._left = 10_000  # a file of aliases may stand for more than there is time for

    def below(self, section: str, content: object, class_path: str) -> Iterator[str]:
        """Return the keys below one section.

        Args:
            section: Name of the section, such as ``model``.
            content: What a spec says there.
            class_path: The class that is typed for it; empty if none is.
        """
        if section == "trainer":
            names = self._sources.parameters("Trainer", self._home)
            yield from (f"trainer.{name}" for name in names)
        if class_path and not isinstance(content, dict):
            content = class_path
        elif class_path and isinstance(content, dict):
            content = {**content, "class_path": class_path}
        yield from self._walk(section, content)

    def _walk(self, place: str, value: object) -> Iterator[str]:
        self._left -= 1
        if self._left < 0 or place.count(".") > 2 * DEEPEST:
            return
        is_class = place in SECTIONS[1:] and isinstance(value, str)
        content = {"class_path": value} if is_class else value
        if not isinstance(content, dict):
            return
        class_path = content.get("class_path")
        if isinstance(class_path, str):
            yield f"{place}.class_path"
            names = self._sources.parameters(class_path, self._home)
            yield from (f"{place}.init_args.{name}" for name in names)
        for key, below in content.items():
            if key not in ("init_args", "class_path"):
                yield f"{place}.{key}"
            yield from self._walk(f"{place}.{key}", below)


def main() -> None:
    """Print what completes the word; with ``init_args`` only where that is typed."""
    cli_class, word = sys.argv[1:]
    sys.path.append(site.getusersitepackages())  # which -I leaves out
    section = word[2:].partition(".")[0]
    contents, classes = typed_spec(os.environ.get("TYPED", "").splitlines())
    keys = Keys(cli_class)
    found: list[str] = []
    for content in contents or [{}]:
        found += keys.below(section, content.get(section), classes.get(section, ""))
    names = dict.fromkeys(f"--{key}" for key in found)
    if ".init_args" not in word:
        names = dict.fromkeys(_SHORT.sub("", name) for name in names)
    for name in names:
        if name.startswith(word) and _PLAIN.fullmatch(name):
            print(name)


if __name__ == "__main__":
    main()
