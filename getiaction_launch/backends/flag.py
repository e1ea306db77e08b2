"""Flags of a backend's settings, each declared once, on the field that it sets.

Settings are the fields of a frozen dataclass. The field has the setting's default, ``Annotated``
holds its flags, and the string below the field is its help, in ``--help`` and in IDEs.
"""

import ast
import inspect
import itertools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from getiaction_launch.errors import UsageError

_MEMORY_MB = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_NO_TIME_LIMIT = ("UNLIMITED", "INFINITE")
_MINUTES_PER_DAY, _MINUTES_PER_HOUR, _SECONDS_PER_MINUTE = 24 * 60, 60, 60
_UNITS = re.compile(r"_(minutes|seconds|mb)$")


@dataclass(frozen=True)
class Flag:
    """How to type a setting on the command line.

    Args:
        names: The flag in its short form, if it has one, and its long form.
        metavar: Placeholder for the value in the help.
        read: Turns the text into the field's value, or raises ValueError saying what is wrong.
        example: Some values as they are typed, for the help and for error messages.
        variables: Environment variables from which the scheduler itself reads this setting.
        repeats: Whether the flag may be repeated, each time for one entry of the field's mapping;
            ``read`` then returns the entry's key and value.
        is_common: Whether the short help shows the flag.
        former: Flags of earlier versions, each with what to type instead.
    """

    names: tuple[str, ...]
    metavar: str
    read: Callable[[str], object] = str
    example: str = ""
    variables: tuple[str, ...] = ()
    repeats: bool = False
    is_common: bool = False
    former: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The long form of the flag, for error messages."""
        return self.names[-1]

    def parse(self, text: str) -> object:
        """Turn the text that was typed into the field's value.

        Raises:
            UsageError: If the text is not a valid value.
        """
        try:
            return self.read(text)
        except ValueError as error:
            fix = f"Examples: {self.example}" if self.example else ""
            raise UsageError(f"{self.name}: {error}.", fix) from error


@dataclass(frozen=True)
class Setting:
    """One field of a backend's settings, with one of its flags."""

    name: str
    flag: Flag


def settings_of(owner: type) -> list[Setting]:
    """List all settings that have a flag, in the order of the fields.

    Args:
        owner: The dataclass whose fields are the settings.
    """
    return [
        Setting(field.name, flag)
        for field in fields(owner)
        for flag in getattr(field.type, "__metadata__", ())
        if isinstance(flag, Flag)
    ]


def help_of(owner: type) -> dict[str, str]:
    """Return the strings below the fields of a class, by the fields' names."""
    source = Path(inspect.getfile(owner)).read_text(encoding="utf-8")
    texts: dict[str, str] = {}
    for definition in ast.parse(source).body:
        if not isinstance(definition, ast.ClassDef) or definition.name != owner.__name__:
            continue
        for field, below in itertools.pairwise(definition.body):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    texts[name] = inspect.cleandoc(text)
    return texts


def variables_of(owner: type, name: str) -> list[str]:
    """List the environment variables from which the scheduler reads a setting; the first wins."""
    flags = [setting.flag for setting in settings_of(owner) if setting.name == name]
    return [variable for flag in flags for variable in flag.variables]


def from_environment(owner: type, name: str) -> str | None:
    """Return the value of a setting in the scheduler's environment variables; None if unset."""
    return next(filter(None, map(os.environ.get, variables_of(owner, name))), None)


def noun(name: str) -> str:
    """Return what to call a field in a sentence: ``time limit`` for ``time_limit_minutes``."""
    words = _UNITS.sub("", name).replace("_", " ")
    return re.sub(r"\b[cg]pu", lambda match: match[0].upper(), words)


# Functions for Flag.read. Their ValueErrors become parts of sentences, so they have no full stop.


def read_count(text: str, least: int = 1) -> int:
    """Read a whole number of ``least`` or more.

    Raises:
        ValueError: If the text is not such a number.
    """
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{text!r} is not a whole number of {least} or more")
    return int(text)


def read_megabytes(text: str) -> int:
    """Read a size as sbatch's ``--mem`` does: in megabytes, or with the unit K, M, G or T.

    Returns:
        The size in megabytes; 0 for all of the node's memory, as in sbatch.

    Raises:
        ValueError: If the text is not a valid size for sbatch.
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", text.upper())
    if match is None:
        raise ValueError(f"invalid size {text!r}")
    number = int(match[1])
    return max(1, round(number * _MEMORY_MB[match[2]])) if number else 0


def write_megabytes(size_mb: int) -> str:
    """Write a size as one types it for :func:`read_megabytes`, in whole gigabytes if it has them.

    Args:
        size_mb: The size in megabytes.
    """
    gigabytes, rest = divmod(size_mb, 1024)
    return f"{gigabytes}G" if gigabytes and not rest else str(size_mb)


def read_minutes(text: str) -> int:
    """Read a time as sbatch does: ``MM``, ``MM:SS``, ``HH:MM:SS``, ``D-HH``, ``D-HH:MM[:SS]``.

    Returns:
        The time in minutes, rounded up; 0 for no limit, as in sbatch.

    Raises:
        ValueError: If the text is not a valid time for sbatch.
    """
    if text.upper() in _NO_TIME_LIMIT:
        return 0
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if match is None:
        raise ValueError(f"invalid time {text!r}")
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part]
    if days is not None:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:  # noqa: PLR2004 - HH:MM:SS
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    whole = int(days or 0) * _MINUTES_PER_DAY + hours * _MINUTES_PER_HOUR + minutes
    return whole + -(-seconds // _SECONDS_PER_MINUTE)


def read_pair(text: str) -> tuple[str, str]:
    """Read ``KEY=VALUE``, or ``KEY`` alone for a switch; dashes in front of it are ignored.

    Returns:
        The key and the value, which is empty for a switch.

    Raises:
        ValueError: If the text has no key.
    """
    key, _, value = text.removeprefix("--").partition("=")
    if not key:
        raise ValueError(f"{text!r} names no option")
    return key, value
