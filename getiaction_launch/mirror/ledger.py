"""What of a run's staging directory is on storage already."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from getiaction_launch.storage.paths import read_json, write_json

POLL_SECONDS = 0.5


class Ledger:
    """What of each file is on storage, in a file beside them.

    Args:
        directory: The staging directory.
        lane: Of which thread.

    Attributes:
        files: By relative path: of a whole file its ``size`` and ``mtime_ns``; of one that grows
            how many ``segments`` it has, and where the last one has its ``start`` and its ``end``.
            ``is_there`` is false while that is being uploaded.
    """

    def __init__(self, directory: Path, lane: str) -> None:
        self._directory, self._lane = directory, lane
        self._path = directory / f".{lane}.json"
        try:
            content = read_json(self._path) or {}
        except ValueError:
            content = {}
        self.files: dict[str, dict[str, Any]] = content.get("files", {})

    def write(self) -> None:
        """Keep it."""
        write_json(self._path, {"files": self.files}, durable=False)

    @staticmethod
    @contextlib.contextmanager
    def locked(directory: Path, lane: str, limit_seconds: float) -> Iterator[bool]:
        """Keep other processes from a lane; yields False if one has it for longer than that."""
        deadline = time.monotonic() + limit_seconds
        with (directory / f".{lane}.lock").open("w") as file:  # closing it unlocks it
            while not (is_mine := _try_lock(file)) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            yield is_mine


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def walk(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file under a staging directory by its relative path, but hidden and unfinished ones."""
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not _is_unfinished(name)]
        for name in names:
            if not _is_unfinished(name):
                path = Path(place, name)
                with contextlib.suppress(FileNotFoundError):
                    yield str(path.relative_to(directory)), path.stat()


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(".partial")
