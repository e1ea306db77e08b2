"""Paths with a variable of the shell, which nothing expands in a spec."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.storage.variables import typed, unexpanded, written_out

IS_PATH = re.compile(r"(path|dir|root|folder|directory)$")
"""How the names of arguments end that are paths."""
_TAKE_LITERALLY = ("lightning.", "pytorch_lightning.", "getiaction.")
"""Where classes come from that expand no variables; one of a user's own may well do so."""
_EXPAND = ("TensorBoardLogger", "LitLogger")
"""Classes of these that do."""


def check_paths(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Find each path that would be taken literally, before anything is built.

    Args:
        spec: The spec as its parser understands it.
    """
    for key, path in _paths(spec, "", is_literal=True):
        if variable := unexpanded(path):
            yield refusal(
                "spec",
                key,
                f"{key}={path!r} is taken literally: a spec expands no variables, so this would be "
                f"a directory named {variable}.",
                _fix(key, path),
            )


def _fix(key: str, path: str) -> str:
    itself = written_out(f"{key.rpartition('.')[2]}: ", path)
    return f'{itself}, or have your shell expand it: --{key}="{typed(path)}"'


def takes_literally(kind: str) -> bool:
    """Return whether a class is of Lightning or of this project, and expands no variables.

    Args:
        kind: Whole name of the class.
    """
    return kind.startswith(_TAKE_LITERALLY) and not kind.endswith(_EXPAND)


def _paths(node: object, key: str, *, is_literal: bool) -> Iterator[tuple[str, str]]:
    """Yield keys and values of the paths that are certainly used as they are written."""
    if isinstance(node, list):
        for number, each in enumerate(node):
            yield from _paths(each, f"{key}[{number}]", is_literal=is_literal)
    elif isinstance(node, Mapping):
        if isinstance(kind := node.get("class_path"), str):
            is_literal = takes_literally(kind)
        for name, value in node.items():
            inner = key if name in ("init_args", "dict_kwargs") else f"{key}.{name}".lstrip(".")
            yield from _paths(value, inner, is_literal=is_literal)
    elif isinstance(node, str) and is_literal and IS_PATH.search(key):
        yield key, node
