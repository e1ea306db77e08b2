"""What is wrong with a cluster config: unknown keys with the nearest ones, and values of a kind."""

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from getiaction_launch.backends import shipped_settings
from getiaction_launch.backends.backend import CLASS_PATHS, LOCAL
from getiaction_launch.errors import ClusterConfigError, nearest_first
from getiaction_launch.plan.yaml_text import KEEP_ONE, duplicate_key, read_yaml

EXAMPLE = "A complete example: cluster_configs/local.yaml"
_INIT_ARGS = "backend.init_args"
_FLAGS = ("--gpus-per-node", "--nodes", "--name")
"""What people look for in a cluster config, and each run sets by a flag."""
_PARSER_KEY = re.compile(r'Parser key "([^"]+)":\s*')
_WRONG_TYPE = re.compile(r"Expected a <class '(\w+)'>\. Got value: (.*)", re.DOTALL)
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
    path: Path, content: Mapping[str, object], keys: Sequence[str], groups: Mapping[str, type]
) -> None:
    """Refuse keys that a cluster config does not have.

    Args:
        path: The file, for error messages.
        content: What the file contains.
        keys: The keys at the top level.
        groups: The class of each key whose value is a mapping with the class's fields as keys.

    Raises:
        ClusterConfigError: If there is an unknown key; the message names the nearest ones.
    """
    of_groups = {
        f"{name}.{field.name}" for name, group in groups.items() for field in fields(group)
    }
    settings = set(_settings_of(path, content["backend"]) if "backend" in content else ())
    valid = {*keys, *of_groups}
    for key in _keys_of(content, (*groups, "backend", _INIT_ARGS)):
        is_setting = key.startswith(f"{_INIT_ARGS}.")
        if key not in valid | {"backend.class_path", _INIT_ARGS, "backend.dict_kwargs"} and not (
            is_setting and (not settings or key in settings)
        ):
            near = nearest_first(key, [*valid, *(settings or _shipped()), *_FLAGS])
            raise ClusterConfigError(f"{path}: unknown key {key!r}.", near)
    if not content.get("backend"):
        raise ClusterConfigError(
            f"{path}: the key backend is missing.",
            f"For example: backend: {{class_path: {LOCAL}}}",
        )


def _keys_of(content: Mapping[str, object], nested: Sequence[str]) -> Iterator[str]:
    for name, value in content.items():
        key = str(name)
        if key in nested and isinstance(value, Mapping):
            inner = [n.partition(".")[2] for n in nested if n.startswith(f"{key}.")]
            yield from (f"{key}.{below}" for below in _keys_of(value, inner))
        elif "." not in key:  # a dotted key is the parser's
            yield key


def _settings_of(path: Path, backend: object) -> list[str]:
    """Return the keys that a backend's class takes; none if they are not known."""
    if backend is None:
        return []
    class_path = backend.get("class_path") if isinstance(backend, Mapping) else backend
    module, _, name = str(class_path).rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
        return [f"{_INIT_ARGS}.{name}" for name in inspect.signature(kind).parameters]
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


def explain(message: str) -> tuple[str, str]:
    """Turn a message of jsonargparse into a sentence, and a fix.

    Args:
        message: The text of an error that the parser of a cluster config raised.
    """
    text = re.sub(r"Problem with given class_path '[^']+':\s*", "", message)
    key = ".".join(_PARSER_KEY.findall(text)).replace("backend.", f"{_INIT_ARGS}.", 1)
    what = _PARSER_KEY.sub("", text).strip()
    if key and (wrong := _WRONG_TYPE.fullmatch(what)):
        kind, value = wrong.groups()
        quoted = f"Write it in quotes: '{value}'" if kind == "str" else EXAMPLE
        return f"{key}: {value} must be {_KINDS.get(kind, kind)}", quoted
    return f"{key}: {what}" if key else what, EXAMPLE
