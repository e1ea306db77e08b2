"""Files that anybody may have written: reading one never blocks, and takes no more than a limit.

A run's directory may lie where others write, too. What has the name of a record can be a FIFO,
which blocks who opens it until somebody writes, a device, a directory, a link that leads to itself,
or a file of any size and content.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from getiaction_launch.errors import RecordError

LIMIT_BYTES = 16 << 20
"""Size up to which a record is read; plans, the largest ones, hold the text of specs."""
TAIL_BYTES = 64 << 10
DEPTH = 100
"""How deeply a record may be nested; Python's own functions fail at some hundred levels."""
_DAMAGED = "The file is damaged, or another program wrote it."
_FORBIDDEN = "Only the user who has submitted the run may read it."
_MISSING = (FileNotFoundError, NotADirectoryError)


@contextlib.contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file of a local file system to read bytes, if it is an ordinary file.

    Args:
        path: Path of the file.

    Raises:
        FileNotFoundError: If the file does not exist.
        RecordError: If it is not an ordinary file, or cannot be opened; the message says why.
    """
    try:
        # O_NONBLOCK: opening a FIFO does not wait for a writer. O_NOCTTY: a terminal stays a file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except _MISSING:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        fix = _FORBIDDEN if isinstance(error, PermissionError) else _DAMAGED
        raise RecordError(f"{path} cannot be read: {reason}.", fix) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RecordError(f"{path} is not an ordinary file.", _DAMAGED)
        yield file


def read_limited(path: Path, limit_bytes: int = LIMIT_BYTES) -> bytes:
    """Read a small file of a local file system.

    Raises:
        FileNotFoundError: If the file does not exist.
        RecordError: If it is not an ordinary file, cannot be read, or is larger than the limit.
    """
    with open_regular(path) as file:
        try:
            content = file.read(limit_bytes + 1)
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error.strerror}.", _DAMAGED) from error
    if len(content) > limit_bytes:
        raise RecordError(f"{path} is larger than {limit_bytes >> 20} MiB.", _DAMAGED)
    return content


def read_tail(path: Path) -> bytes:
    """Read the end of a file of a local file system, however large it is.

    Raises:
        FileNotFoundError: If the file does not exist.
        RecordError: If it is not an ordinary file, or cannot be read.
    """
    with open_regular(path) as file:
        try:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            return file.read(TAIL_BYTES)
        except OSError as error:
            raise RecordError(f"{path} cannot be read: {error.strerror}.", _DAMAGED) from error


def parse_json(content: bytes, source: str) -> dict[str, object] | None:
    """Parse a mapping in JSON that is not nested deeper than :data:`DEPTH`.

    Args:
        content: What the file holds.
        source: Path or URL of the file, for error messages.

    Returns:
        The mapping; None for ``null``.

    Raises:
        RecordError: If it is not JSON, not a mapping, or nested too deeply.
    """
    try:
        parsed: object = json.loads(content)
    except RecursionError:
        raise RecordError(f"{source} is nested too deeply.", _DAMAGED) from None
    except ValueError as error:
        raise RecordError(f"{source} is not JSON: {error}.", _DAMAGED) from error
    level = [parsed]
    for _ in range(DEPTH):
        level = [child for node in level for child in _children(node)]
    if level:
        raise RecordError(f"{source} is nested too deeply.", _DAMAGED)
    if parsed is not None and not isinstance(parsed, dict):
        text = repr(parsed)
        shown = text if len(text) <= 60 else f"{text[:60]}..."  # noqa: PLR2004 - a line
        raise RecordError(f"{source}: {shown} must be a mapping.", _DAMAGED)
    return parsed


def _children(node: object) -> list[object]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []
