"""Finds a program that is named as a module or as a command, without importing it.

A module is what ``python -m`` runs. A command is a console script that an installed package
declares (https://packaging.python.org/en/latest/specifications/entry-points/).
"""

import contextlib
import importlib.machinery
import importlib.util
import os
import shlex
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from getiaction_launch.errors import SpecError, UsageError, nearest_first

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

_INTERPRETERS = ("python", "python3", "torchrun", "accelerate")


@dataclass(frozen=True)
class Program:
    """A user's own program.

    Attributes:
        kind: What the first of the words names.
        words: Its name and its arguments; the absolute path of a script.
        typed: The words behind the launcher's flags that name it.
        default_name: The name of a run that is given none.
    """

    kind: Literal["script", "module", "command"] = "script"
    words: list[str] = field(default_factory=list)
    typed: list[str] = field(default_factory=list)
    default_name: str = ""


def read_program(typed: Sequence[str], directory: str, *, is_here: bool) -> Program:
    """Return what a program is, if it can be run.

    Args:
        typed: What the user has typed: a path, or ``-m`` and a module, or the name of a command;
            and its arguments.
        directory: The directory in which it would be started.
        is_here: Whether it would be started with the packages of this environment.

    Raises:
        SpecError: If there is no such program, or it is not Python.
    """
    kind, words = _kind_of(typed)
    name, *arguments = words
    path: Path | None = None
    if kind == "script":
        path = Path(name)
        words = [str(path.absolute()), *arguments]
    elif is_here and kind == "module":
        path = find_module(name, directory)
    elif is_here:
        require_command(name)
    if path:
        _compile(path, name if kind == "script" else f"-m {name}")
    if kind == "script":
        return Program(kind, words, [*typed], Path(name).stem)
    if kind == "module":
        return Program(kind, words, ["-m", *words], _last_name(name))
    return Program(kind, words, ["--", *words], name)


def _last_name(module: str) -> str:
    return module.removesuffix(".__main__").rpartition(".")[2]


def _compile(path: Path, typed: str) -> None:
    quoted = shlex.quote(str(path))
    try:
        compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except OSError as error:
        folder = shlex.quote(str(path.parent))
        raise SpecError(
            f"script {typed!r}: {error.strerror}.",
            f"Name a script that can be read; those there: ls {folder}/*.py",
        ) from error
    except (SyntaxError, ValueError) as error:
        raise SpecError(
            f"script {typed!r} is not Python: {error}.",
            f"Fix it and try again: python -m py_compile {quoted}",
        ) from error


def _kind_of(words: Sequence[str]) -> tuple[Literal["script", "module", "command"], list[str]]:
    first, *rest = words
    if first == "-m":
        if not rest or rest[0].startswith("-"):
            raise SpecError("-m needs a module.", "getiaction-launch -m package.train --lr 3e-4")
        return "module", rest
    scripts = sysconfig.get_path("scripts")
    folder, name = os.path.split(first)
    if folder and os.path.realpath(folder) == os.path.realpath(scripts) and find_command(name):
        return "command", [name, *rest]  # as `$(which lerobot-train)` says it
    is_path = bool(folder) or name.endswith(".py") or Path(name).is_file()
    return "script" if is_path else "command", [*words]


def find_module(name: str, directory: str) -> Path | None:
    """Return the file that ``python -m`` would run, as far as that can be known without importing.

    Args:
        name: The name of the module: ``package.train``.
        directory: The directory in which it would be started, which is searched first.

    Returns:
        The path of its source; None for a module that has none, such as a compiled one.

    Raises:
        SpecError: If there is no such module.
    """
    found = _locate(name, directory)
    if places := list(found.submodule_search_locations or ()):
        main = _find("__main__", places, is_first=False)
        if main is None:
            below = _modules_in(places) or ["train"]
            raise SpecError(
                f"-m {name}: this package has no module __main__, so it cannot be run.",
                f"Name one of its modules: -m {name}.{below[0]}",
            )
        found = main
    return Path(found.origin) if found.origin and found.origin.endswith(".py") else None


def _locate(name: str, directory: str) -> importlib.machinery.ModuleSpec:
    parts = name.split(".")
    places = [directory, *sys.path[1:]]
    for end, part in enumerate(parts):
        found = _find(part, places, is_first=not end)
        if found is None:
            raise _missing(name, ".".join(parts[: end + 1]), places if end else places[:1])
        places = list(found.submodule_search_locations or ())
    return found  # type: ignore[return-value] # split() returns one part at least


def _find(name: str, places: list[str], *, is_first: bool) -> importlib.machinery.ModuleSpec | None:
    found = importlib.machinery.PathFinder.find_spec(name, places) if name else None
    if found is None and is_first and name:
        with contextlib.suppress(ImportError, ValueError, AttributeError):
            found = importlib.util.find_spec(name)  # by the finders of editable installs
    return found


def _missing(name: str, missing: str, places: Sequence[str]) -> SpecError:
    above, dot, last = missing.rpartition(".")
    where = f"in {above}" if dot else "here"
    if name.endswith(".py"):
        module = name.removesuffix(".py").replace("/", ".")
        fix = f"A script is named without -m: {name}; a module without .py: -m {module}"
        return SpecError(f"-m {name} is the name of a file.", fix)
    near = nearest_first(last, _modules_in(places))
    return SpecError(
        f"-m {name}: there is no module {missing!r} {where}.",
        near
        if near.startswith("Did you mean")
        else f"Start in the directory that holds {name.partition('.')[0]}, as for python -m, or "
        "install it: pip install -e DIR",
    )


def _modules_in(places: Sequence[str]) -> list[str]:
    found = []
    for place in map(Path, places):
        with contextlib.suppress(OSError):
            found += [path.stem for path in place.iterdir() if _is_module(path)]
    return sorted(name for name in found if name.isidentifier() and not name.startswith("_"))


def _is_module(path: Path) -> bool:
    return path.suffix == ".py" or (not path.suffix and (path / "__init__.py").is_file())


def find_command(name: str) -> "EntryPoint | None":
    """Return the console script of a name that a package of this environment declares."""
    return next((each for each in _commands() if each.name == name), None)


def require_command(name: str) -> "EntryPoint":
    """Return the console script of a name.

    Raises:
        SpecError: If no package of this environment declares it.
    """
    if found := find_command(name):
        return found
    if name in _INTERPRETERS:
        raise SpecError(
            f"{name!r} starts processes of its own, which the launcher does already.",
            "Name the program itself: getiaction-launch train.py, or -m package.train",
        )
    near = nearest_first(name, [each.name for each in _commands()])
    hint = f"{near} " if near.startswith("Did you mean") else ""
    raise SpecError(
        f"{name!r} is not a command of this environment: no package in {sys.prefix} declares a "
        "console script of that name.",
        f"{hint}Install its package here: {sys.executable} -m pip install PACKAGE\n"
        "Or name a script, ./train.py, or a module, -m package.train",
    )


def _commands() -> "Sequence[EntryPoint]":
    from importlib.metadata import entry_points  # slow to import

    return [*entry_points(group="console_scripts")]


def is_whole(command: "EntryPoint") -> bool:
    """Return whether the module that a command calls is there.

    Args:
        command: What :func:`require_command` has returned.
    """
    try:
        _locate(command.module, sysconfig.get_path("scripts"))
    except SpecError:
        return False
    return True


def refuse_notebook(word: str, prog: str) -> None:
    """Refuse a notebook in the place of a script.

    Args:
        word: The word that was typed.
        prog: The command that it was typed to.

    Raises:
        UsageError: Says how to make a script of it.
    """
    if word.endswith(".ipynb"):
        name = word.removesuffix(".ipynb")
        raise UsageError(
            f"{word} is a notebook, and a run needs a script.",
            f"jupyter nbconvert --to script {shlex.quote(word)}, then: {prog} {name}.py",
        )
