"""Which keys of objects may become paths of files; every other module asks here.

Many people write to a bucket, and a key is any text: it may climb out of the directory that it is
copied to, or hold what no file name should.
"""

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_UNSHOWN = {"Cc", "Cs", "Zl", "Zp"}
"""Categories of control characters, of bytes that are not text, and of separators of lines."""
_REORDERING = {*map(chr, range(0x202A, 0x202F)), *map(chr, range(0x2066, 0x206A))}


def why_refused(path: str) -> str | None:
    """Return why a relative path of an object cannot be that of a file; None if it can be.

    Args:
        path: The object's key behind the key of its directory and a slash.
    """
    segments = path.split("/")
    if path.startswith("/"):
        return "it is absolute"
    if ".." in segments:
        return "it leaves its directory"
    if "." in segments or "" in segments:
        return "it has an empty segment"
    if "\\" in path:
        return "it has a backslash"
    if any(unicodedata.category(c) in _UNSHOWN or c in _REORDERING for c in path):
        return "it has a character that cannot be shown"
    return None


@dataclass(frozen=True)
class Found:
    """The objects below a directory.

    Attributes:
        sizes: Size of each object in bytes, by its path relative to the directory.
        refused: Why an object has no such path, by what its key has in place of it.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def split(root: str, sizes: Mapping[str, int]) -> Found:
    """Turn the keys of objects into paths, as far as they can be.

    Args:
        root: Key of the directory.
        sizes: Size of each object in bytes, by its key.
    """
    found, prefix = Found(), f"{root.rstrip('/')}/"
    for key, size_bytes in sizes.items():
        path = key.removeprefix(prefix)
        if path.endswith("/") and size_bytes == 0:
            continue  # in place of a directory, as the consoles of object stores create it
        reason = why_refused(path) if key.startswith(prefix) else "it leaves its directory"
        if reason:
            found.refused[path] = reason
        else:
            found.sizes[path] = size_bytes
    for path in list(found.sizes):
        # The file stays: a stranger must not take a record away by adding something below it.
        if parent := _file_above(path, found.sizes):
            found.refused[path] = f"{parent!r} is a file and not a directory"
    for path in found.refused.keys() & found.sizes.keys():
        del found.sizes[path]
    return found


def _file_above(path: str, files: Iterable[str]) -> str | None:
    segments = path.split("/")
    parents = ("/".join(segments[:length]) for length in range(1, len(segments)))
    return next((parent for parent in parents if parent in files), None)
