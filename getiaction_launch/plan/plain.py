"""Dataclasses from plain data: what a JSON file holds is checked against the fields' types.

A file may come from another version, or be damaged. Keys that a class does not have are ignored and
fields with a default may be missing, so old files stay readable; a value of the wrong type is a
:class:`~getiaction_launch.errors.RecordError` that names the file and the key.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar, Union

from getiaction_launch.errors import LaunchError, RecordError

T = TypeVar("T")
HUGE = 1 << 63
"""Whole numbers beyond this fit into no process id, size or time, and not into a float."""

_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""Numbers that JSON does not have, as :mod:`getiaction_launch.storage.strict_json` writes them."""


def read_dataclass(cls: type[T], content: object, source: str) -> T:
    """Make an object of a dataclass from the content of a JSON file.

    Args:
        cls: The dataclass; its fields may be plain values, lists, mappings with text keys,
            literals, enumerations, other dataclasses, and unions of these.
        content: What the file holds.
        source: The file's name, for the error.

    Returns:
        The object.

    Raises:
        RecordError: If a value does not fit its field, or a field without default is missing.
    """
    return typing.cast("T", _read_fields(cls, content, source, ""))


@functools.cache
def _types(cls: type) -> dict[str, object]:
    return typing.get_type_hints(cls)


def _read_fields(cls: Any, content: object, source: str, prefix: str) -> object:  # noqa: ANN401 - a dataclass
    if not isinstance(content, Mapping):
        raise _damaged(source, prefix.rstrip("."), content, "a mapping")
    values = {}
    for field in dataclasses.fields(cls):
        if field.name in content:
            key = f"{prefix}{field.name}"
            values[field.name] = _read(_types(cls)[field.name], content[field.name], source, key)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise RecordError(
                f"{source}: the key {prefix}{field.name} is missing.",
                "The file is damaged, or another program wrote it.",
            )
    try:
        return cls(**values)
    except (TypeError, ValueError, LaunchError) as error:  # what the class itself checks
        words = str(error).partition("\n")[0].removesuffix(".")
        raise RecordError(
            f"{source}: {words}.", "The file is damaged, or another program wrote it."
        ) from error


def _read(kind: Any, value: object, source: str, key: str) -> object:  # noqa: ANN401, C901, PLR0911 - a type; a line for each kind
    """Return ``value`` as an object of the type ``kind``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, source, key)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, source, f"{key}.")
    if origin is list and isinstance(value, list):
        return [_read(arguments[0], v, source, f"{key}[{i}]") for i, v in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _read(arguments[1], v, source, f"{key}.{k}") for k, v in value.items()}
    if origin is typing.Literal and value in arguments:
        return value
    if isinstance(kind, type):
        if issubclass(kind, Enum) and value in [member.value for member in kind]:
            return kind(value)
        if _is_number_for(kind, value):
            try:
                return kind(value)
            except OverflowError:
                raise _damaged(source, key, value, _name(kind)) from None
        if kind is float and value in _NOT_FINITE:
            return float(str(value))
        is_flag = isinstance(value, bool) and kind is not bool  # Python counts it as a number
        is_huge = kind is int and isinstance(value, int) and abs(value) > HUGE
        if isinstance(value, kind) and not (is_flag or is_huge):
            return value
    raise _damaged(source, key, value, _name(kind))


def _is_number_for(kind: type, value: object) -> bool:
    """Whether a number only has another form: 3 for a float, 3.0 for a whole number."""
    if isinstance(value, bool):
        return False
    is_whole = kind is int and isinstance(value, float) and value.is_integer()
    return is_whole or (kind is float and isinstance(value, int))


def _read_union(kinds: tuple[Any, ...], value: object, source: str, key: str) -> object:
    failure: RecordError | None = None
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
            continue
        try:
            return _read(kind, value, source, key)
        except RecordError as error:
            failure = error
    raise failure or _damaged(source, key, value, "null")


def _name(kind: Any) -> str:  # noqa: ANN401 - a type
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(str(member.value) for member in kind)}"
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return words.get(kind) or {list: "a list", dict: "a mapping"}.get(
        typing.get_origin(kind), str(kind)
    )


def _damaged(source: str, key: str, value: object, wanted: str) -> RecordError:
    text = repr(value)
    shown = text if len(text) <= 60 else f"{text[:60]}..."  # noqa: PLR2004 - a line
    where = f"{source}: {key}={shown}" if key else f"{source}: {shown}"
    return RecordError(
        f"{where} must be {wanted}.", "The file is damaged, or another program wrote it."
    )
