"""Refuses config files that set a key twice, of which YAML's loaders silently keep the last."""

from pathlib import Path

import yaml


class _DuplicateKeyError(yaml.YAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Raises at a key that one mapping sets twice; a merged key may be overridden."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Check the mapping before the keys of its anchors are merged into it."""
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value if id(node) not in self._checked else ():
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines and key.tag != "tag:yaml.org,2002:merge":
                msg = f"{key.value!r} is set in line {lines[name]} and again in line {line}"
                raise _DuplicateKeyError(msg)
            lines[name] = line
        self._checked.add(id(node))
        super().flatten_mapping(node)


def duplicate_key(path: Path) -> str | None:
    """Find a key that is set twice in the same mapping of a YAML or JSON file.

    Args:
        path: The file; one that is missing or cannot be parsed has no duplicates.

    Returns:
        The key with the lines of both; None if every key is unique.
    """
    try:
        yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
    except _DuplicateKeyError as error:
        return str(error)
    except (OSError, ValueError, yaml.YAMLError):
        pass  # the parser of the config explains it
    return None
