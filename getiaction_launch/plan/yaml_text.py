"""What is wrong with YAML that users write: where it cannot be parsed, and keys set twice.

YAML's loaders silently keep the last of two equal keys.
"""

import functools
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

KEEP_ONE = "Join the two, or remove one: YAML would silently drop the first."
"""What to do about a duplicate key."""


def read_yaml(path: Path, load: Callable[[str], object] | None = None) -> tuple[str, object]:
    """Read a file in YAML.

    Args:
        path: The file to read.
        load: Parses the text; by default ``yaml.safe_load``.

    Returns:
        The text, and what it contains.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not YAML; the message says why, and where it can.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        return text, (load or yaml.safe_load)(text)
    except UnicodeDecodeError as error:
        raise ValueError("it is not text") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{getattr(error, 'problem', None) or 'it is not text'}{where}") from error


def load_text(text: str) -> object:
    """Load YAML with each value as the text that stands there, except for null.

    Args:
        text: A document in YAML.

    Raises:
        yaml.YAMLError: If it cannot be parsed.
    """
    import yaml

    class TextLoader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012 - as yaml has it
            first: [(tag, pattern) for tag, pattern in found if tag.endswith((":null", ":merge"))]
            for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    loaded: object = yaml.load(text, TextLoader)  # noqa: S506 - a safe loader
    return loaded


@functools.lru_cache(maxsize=64)
def duplicate_key(text: str) -> str | None:
    """Find a key that is set twice in the same mapping, at any depth.

    A key that overrides one from a merged anchor (``<<: *base``) is not a duplicate.

    Args:
        text: A document in YAML or JSON; one that cannot be parsed has no duplicates.

    Returns:
        The key with the lines of both, for an error message; None if every key is unique.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.compose(text, loader)
        return next(_duplicates(document, "", set()), None) if document else None
    except (yaml.YAMLError, RecursionError):
        return None


def _duplicates(node: "yaml.Node", path: str, seen: set[int]) -> Iterator[str]:
    import yaml

    if id(node) in seen:  # an anchor that is used again, perhaps inside itself
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _duplicates(item, f"{path}[{number}]", seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[Hashable, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                name, line = f"{path}.{key.value}".lstrip("."), key.start_mark.line + 1
                if first := lines.get(_value_of(key)):
                    again = f"in line {first} and again in line {line}"
                    yield f"{name!r} is set " + (again if line > first else f"twice in line {line}")
                lines[_value_of(key)] = line
                yield from _duplicates(value, name, seen)
            else:
                yield from _duplicates(value, path, seen)


def _value_of(key: "yaml.ScalarNode") -> Hashable:
    import yaml

    try:
        value: Hashable = yaml.SafeLoader("").construct_object(key)
    except (yaml.YAMLError, ValueError):  # such as a date that does not exist
        return str(key.value)
    return value
