"""Which files of a staging directory are on storage already.

Each lane of the mirror keeps its ledger in the staging directory, so that an upload continues there
after a crash.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.storage.paths import read_json, write_json
from getiaction_launch.storage.segment import segment_name

FILES, CHECKPOINTS = LANES = ("files", "checkpoints")
COMMITTED = "launch/checkpoints"
"""Where committed checkpoints are; they are uploaded with their markers, and not by ledger."""
_OTHERS = ("launch/plan.json", "launch/progress.json", "launch/resume.lock", COMMITTED)
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Whole:
    """A file that is uploaded again whenever it changes.

    Attributes:
        size: Size of the uploaded file in bytes.
        mtime_ns: Modification time of the uploaded file in nanoseconds.
    """

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Whole":
        """Describe the present state of a file."""
        return cls(stat.st_size, stat.st_mtime_ns)

    def objects(self, path: str) -> list[str]:
        """Return the relative paths of the objects that hold the file at ``path``."""
        return [path]


@dataclass(frozen=True)
class Segmented:
    """A file that only grows, and is uploaded in segments.

    Attributes:
        segments: How many segments there are, the unfinished one included.
        start: Where the last segment starts in the file, in bytes.
        end: Where the last segment ends in the file, in bytes.
        is_there: Whether the upload of the last segment has finished.
    """

    segments: int = 0
    start: int = 0
    end: int = 0
    is_there: bool = True

    def objects(self, path: str) -> list[str]:
        """Return the relative paths of the objects that hold the file at ``path``."""
        return [segment_name(path, number) for number in range(self.segments)]


@dataclass(frozen=True)
class _Content:
    files: dict[str, Whole | Segmented] = field(default_factory=dict)


class Ledger:
    """What one lane of the mirror has uploaded, in a JSON file.

    Args:
        directory: The run's staging directory.
        lane: Name of the lane, one of :data:`LANES`.

    Attributes:
        files: Uploaded files by their relative path.
    """

    def __init__(self, directory: Path, lane: str) -> None:
        self._path = directory / f".{lane}.json"
        try:
            content = read_dataclass(_Content, read_json(self._path) or {}, str(self._path))
        except (ValueError, RecordError):  # damaged: everything is uploaded again
            content = _Content()
        self.files = content.files

    def write(self) -> None:
        """Write the JSON file."""
        files = {path: vars(entry) for path, entry in self.files.items()}
        write_json(self._path, {"files": files}, durable=False)

    def record(self, path: str, entry: Whole | Segmented) -> None:
        """Set the entry of one file, and write the JSON file."""
        self.files[path] = entry
        self.write()


def lane_of(path: str) -> str | None:
    """Return the lane that uploads a file.

    Args:
        path: The file's path, relative to the staging directory.

    Returns:
        One of :data:`LANES`; None if the file is not uploaded by ledger.
    """
    if path.startswith(_OTHERS):
        return None
    return CHECKPOINTS if "checkpoints" in Path(path).parts[:-1] else FILES


@contextlib.contextmanager
def locked(directory: Path, lane: str, limit_seconds: float) -> Iterator[bool]:
    """Keep other processes of this machine from using a lane.

    Args:
        directory: The run's staging directory.
        lane: Name of the lane, one of :data:`LANES`.
        limit_seconds: How long to wait for the lock.

    Yields:
        Whether this process has the lock; False after the limit.
    """
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
    """Find the files of a staging directory, except hidden and unfinished ones.

    Yields:
        The path of each file, relative to the directory, and its status.
    """
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not _is_unfinished(name)]
        for name in names:
            if not _is_unfinished(name):
                path = Path(place, name)
                with contextlib.suppress(FileNotFoundError):
                    yield str(path.relative_to(directory)), path.stat()


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(".partial")
