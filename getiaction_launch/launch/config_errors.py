"""What is wrong with a cluster config: unknown keys with the nearest ones, and values of a kind."""

import importlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from getiaction_launch.backends import shipped_settings
from getiaction_launch.backends.backend import CLASS_PATHS, LOCAL
from getiaction_launch.errors import ClusterConfigError, nearest_first
from getiaction_launch.plan.yaml_text import KEEP_ONE, duplicate_key, load_text, read_yaml

EXAMPLE = "A complete example: cluster_configs/local.yaml"
_INIT_ARGS = "backend.init_args"
_FLAGS = ("--gpus-per-node", "--nodes", "--name")
"""What people look for in a cluster config, and each run sets by a flag."""
_PARSER_KEY = re.compile(r'Parser key "([^"]+)":\s*')
_WRONG_TYPE = re.compile(r"Expected a <class '(\w+)'>\. Got value: (.*)", re.DOTALL)
_NO_TYPE_FITS = re.compile(
    r"Does not validate against any of the Union .*Given value: (.*)", re.DOTALL
)
_EXPECTED = re.compile(r"Expected a <class '(\w+)'>")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_UNITS: dict[str, dict[str, float]] = {
    "minutes": {"s": 1 / 60, "m": 1, "h": 60, "d": 24 * 60},
    "seconds": {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600},
    "mb": {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024},
}
"""What people write behind a number, by its first letter, in the unit of a setting."""
_NAMES = {"mb": "MB"}
_KINDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "dict": "a mapping",
    "list": "a list",
}


def read_content(path: Path) -> Mapping[str, object]:
    """Read a cluster config's YAML.

    Raises:
        ClusterConfigError: If the file cannot be read, is not a mapping in YAML, or sets a key
            twice.
    """
    try:
        text, content = read_yaml(path)
    except OSError as error:
        raise ClusterConfigError(
            f"{path}: {error.strerror}.", f"Look at the file: ls -l {path}"
        ) from error
    except ValueError as error:
        raise ClusterConfigError(f"{path} is not YAML: {error}.", EXAMPLE) from error
    if not isinstance(content, Mapping):
        kind = "nothing" if content is None else _KINDS.get(type(content).__name__, "one value")
        raise ClusterConfigError(f"{path} holds {kind}, not a mapping.", EXAMPLE)
    if found := duplicate_key(text):
        raise ClusterConfigError(f"{path}: {found}.", KEEP_ONE)
    return content


def check_keys(
    path: Path, content: Mapping[str, object], owner: type, groups: Mapping[str, type]
) -> None:
    """Refuse keys that a cluster config does not have, and keys without a value.

    Args:
        path: The file, for error messages.
        content: What the file contains.
        owner: The class whose fields are the keys at the top level.
        groups: The class of each key whose value is a mapping with the class's fields as keys.

    Raises:
        ClusterConfigError: If there is an unknown key; the message names the nearest ones. Or if a
            key that has a default other than null is null.
    """
    defaults = _defaults_of(owner)
    for name, group in groups.items():
        defaults |= {f"{name}.{key}": value for key, value in _defaults_of(group).items()}
    backend = _settings_of(path, content["backend"]) if "backend" in content else {}
    defaults |= backend
    others = {"backend.class_path", _INIT_ARGS, "backend.dict_kwargs"}
    for key, value in _items_of(content, (*groups, "backend", _INIT_ARGS)):
        is_setting = key.startswith(f"{_INIT_ARGS}.")
        if key not in defaults.keys() | others and not (is_setting and not backend):
            near = nearest_first(key, [*defaults, *(() if backend else _shipped()), *_FLAGS])
            raise ClusterConfigError(f"{path}: unknown key {key!r}.", near)
        if value is None and key != "backend" and defaults.get(key, "") is not None:
            raise ClusterConfigError(
                f"{path}: {key} has no value.", "Leave the key out for its default."
            )
    if not content.get("backend"):
        raise ClusterConfigError(
            f"{path}: the key backend is missing.",
            f"For example: backend: {{class_path: {LOCAL}}}",
        )


def _items_of(content: Mapping[str, object], nested: Sequence[str]) -> Iterator[tuple[str, object]]:
    for name, value in content.items():
        key = str(name)
        if key in nested and isinstance(value, Mapping):
            inner = [n.partition(".")[2] for n in nested if n.startswith(f"{key}.")]
            yield from ((f"{key}.{below}", each) for below, each in _items_of(value, inner))
        elif "." not in key:  # a dotted key is the parser's
            yield key, value


def _defaults_of(owner: type) -> dict[str, object]:
    return {name: each.default for name, each in inspect.signature(owner).parameters.items()}


def _settings_of(path: Path, backend: object) -> dict[str, object]:
    """Return the keys that a backend's class takes, with their defaults; none if not known."""
    if backend is None:
        return {}
    class_path = backend.get("class_path") if isinstance(backend, Mapping) else backend
    module, _, name = str(class_path).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        return {f"{_INIT_ARGS}.{key}": value for key, value in _defaults_of(kind).items()}
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        reason = f": {error}" if module else ", which needs a module"
        near = nearest_first(str(class_path), CLASS_PATHS)
        raise ClusterConfigError(
            f"{path}: backend has no class {str(class_path)!r}{reason}.", near
        ) from error


def _shipped() -> list[str]:
    return [
        f"{_INIT_ARGS}.{field.name}"
        for owner in shipped_settings().values()
        for field in fields(owner)
    ]


def explain(message: str, path: Path) -> tuple[str, str]:
    """Turn a message of jsonargparse into a sentence, and a fix.

    Args:
        message: The text of an error that the parser of a cluster config raised.
        path: The file of the cluster config.
    """
    text = re.sub(r"Problem with given class_path '[^']+':\s*", "", message)
    key = ".".join(_PARSER_KEY.findall(text)).replace("backend.", f"{_INIT_ARGS}.", 1)
    what = _PARSER_KEY.sub("", text).strip()
    if key and (wrong := _WRONG_TYPE.fullmatch(what)):
        return _misfit(key, [wrong[1]], _in_file(path, key, wrong[2]))
    if key and (wrong := _NO_TYPE_FITS.fullmatch(what)):
        kinds = dict.fromkeys(_EXPECTED.findall(what))
        names = [kind for kind in kinds if kind != "NoneType"]
        return _misfit(key, names, _in_file(path, key, wrong[1]))
    return f"{key}: {what}" if key else what, EXAMPLE


def _misfit(key: str, kinds: Sequence[str], value: str) -> tuple[str, str]:
    """Say that a value is of none of the kinds that a key takes, and how it is written."""
    what = f"{key}: {value} must be {' or '.join(_KINDS.get(kind, kind) for kind in kinds)}"
    name, is_one = key.rpartition(".")[2], not value.startswith(("[", "{"))
    if "str" in kinds and is_one:
        return what, f"Write it in quotes: {name}: '{value}'"
    if "list" in kinds and is_one:
        return what, f"Write it in brackets: {name}: [{value}]"
    return what, _in_number(name, value) or _in_mapping(name, value) or EXAMPLE


def _in_file(path: Path, key: str, value: str) -> str:
    """Return a value as its file has it, 0123, where YAML reads another number."""
    _, found = read_yaml(path, load_text)
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else value


def _in_number(name: str, value: str) -> str:
    """Return a setting with an amount such as 2 hours or 64GB in the unit that its name has."""
    unit = name.rpartition("_")[2]
    amount = _AMOUNT.fullmatch(value.strip())
    sizes = _UNITS.get(unit)
    if sizes is None or amount is None or amount[2][0].lower() not in sizes:
        return ""
    number = float(amount[1]) * sizes[amount[2][0].lower()]
    return f"Write it as a number of {_NAMES.get(unit, unit)}: {name}: {math.ceil(number)}"


def _in_mapping(name: str, value: str) -> str:
    """Return a list of assignments, as a shell has them, as a mapping."""
    pairs = [pair.partition("=") for pair in re.findall(r"'(\w+=[^']*)'", value)]
    shown = ", ".join(f"{variable}: '{text}'" for variable, _, text in pairs)
    return f"Write it as a mapping: {name}: {{{shown}}}" if pairs else ""
