"""Logs of limited size: their start and their end are kept, and what lies between is dropped.

A worker writes to its log through a descriptor that it has inherited, so the file cannot be
replaced. It is opened for appending, so it can be shortened: the end is moved to the front, behind
the first :data:`HEAD_BYTES` and a line that says how much was dropped. From this line, readers know
where each byte of the whole log is now, and so lose and repeat nothing that is still there.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.storage.untrusted import open_regular

HEAD_BYTES = 256 << 10
"""How much of a log's start is kept."""
TAIL_BYTES = 64 << 20
"""How much of a log's end is kept at most when it is shortened."""
PERIOD_SECONDS = 1.0
_CHUNK_BYTES = 1 << 20
_MARK = b"\n[getiaction-launch: %020d bytes were dropped here, see log_limit_mb]\n"
_MARK_BYTES = len(_MARK % 0)
_MARKED = re.compile(re.escape(_MARK % 0).replace(b"0" * 20, rb"(\d{20})"))


@dataclass(frozen=True)
class Position:
    """Where the bytes of a log are in its file.

    Attributes:
        dropped_bytes: How many bytes of the log are not in the file any more.
        end: How long the whole log is in bytes, with those that were dropped.
    """

    dropped_bytes: int
    end: int

    @classmethod
    def of(cls, descriptor: int) -> "Position":
        """Read where the bytes are, from an open file that is locked."""
        found = _MARKED.fullmatch(os.pread(descriptor, _MARK_BYTES, HEAD_BYTES))
        dropped = int(found[1]) if found else 0
        return cls(dropped, os.fstat(descriptor).st_size + dropped - bool(found) * _MARK_BYTES)

    @property
    def mark_bytes(self) -> int:
        """How long the line is that says how much was dropped; 0 if nothing was."""
        return _MARK_BYTES if self.dropped_bytes else 0

    def in_file(self, position: int) -> int:
        """Return where a byte of the log is in the file, if it was not dropped."""
        is_behind = position >= HEAD_BYTES + self.dropped_bytes and self.dropped_bytes
        return position - self.dropped_bytes + _MARK_BYTES if is_behind else position


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[int]:
    """Open a log so that it is not shortened while it is read."""
    with open_regular(path) as file:
        _lock(file.fileno(), fcntl.LOCK_SH)
        yield file.fileno()


def _lock(descriptor: int, operation: int) -> None:
    with contextlib.suppress(OSError):  # some file systems have no locks
        fcntl.flock(descriptor, operation)


def end_of(path: Path) -> int:
    """Return how long a log is in bytes, with those that were dropped from its file."""
    with _reading(path) as descriptor:
        return Position.of(descriptor).end


def read_from(path: Path, position: int, most_bytes: int) -> tuple[bytes, int]:
    """Read a part of a log.

    Args:
        path: The log's file, on a disk.
        position: Where to start in the whole log, in bytes.
        most_bytes: How much to read at most.

    Returns:
        The content, and the position behind it. Instead of bytes that were dropped, the content is
        the line that says so.
    """
    with _reading(path) as descriptor:
        now = Position.of(descriptor)
        behind = HEAD_BYTES + now.dropped_bytes
        if HEAD_BYTES <= position < behind:
            return _MARK % now.dropped_bytes, behind
        if position < HEAD_BYTES and now.dropped_bytes:
            most_bytes = min(most_bytes, HEAD_BYTES - position)
        content = os.pread(descriptor, most_bytes, now.in_file(position))
        return content, position + len(content)


def shorten(path: Path, limit_bytes: int) -> None:
    """Drop the middle of a log that is longer than its limit.

    Args:
        path: The log's file, to which other processes append.
        limit_bytes: Size above which the file is shortened to about half of it, or less.

    Raises:
        OSError: If the disk refuses; the log is complete then, or lacks its middle.
    """
    if path.stat().st_size <= limit_bytes:
        return
    with path.open("r+b", buffering=0) as file:
        descriptor = file.fileno()
        _lock(descriptor, fcntl.LOCK_EX)
        before = Position.of(descriptor)
        size_bytes = os.fstat(descriptor).st_size
        first = HEAD_BYTES + before.mark_bytes  # what is behind it moves
        source = max(first, size_bytes - min(TAIL_BYTES, limit_bytes // 2))
        source += os.pread(descriptor, _CHUNK_BYTES, source).find(b"\n") + 1
        dropped = before.dropped_bytes + source - first
        target = HEAD_BYTES + _MARK_BYTES
        if source <= target:
            return
        # Beware: what is appended between the last read and the cut is lost, so nothing may come
        # between them.
        while chunk := os.pread(descriptor, _CHUNK_BYTES, source):
            source += len(chunk)
            target += os.pwrite(descriptor, chunk, target)
        os.ftruncate(descriptor, target)
        os.pwrite(descriptor, _MARK % dropped, HEAD_BYTES)


class LogLimit:
    """Keeps the logs of a node's workers below their limit.

    Args:
        paths: The files of the logs.
        limit_mb: Size in MB above which one is shortened; 0 for no limit.
    """

    def __init__(self, paths: Iterable[Path], limit_mb: float) -> None:
        self._paths = list(paths) if limit_mb else []
        # A log of less than two heads could not become shorter.
        self._limit_bytes = max(int(limit_mb * 1e6), 4 * HEAD_BYTES)
        self._look_at = 0.0

    def keep(self) -> None:
        """Shorten the logs that have become too long; cheap enough for a loop."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + PERIOD_SECONDS
        for path in self._paths:
            # A disk that fails, or a log that somebody removed, must not end the training.
            with contextlib.suppress(OSError):
                shorten(path, self._limit_bytes)
