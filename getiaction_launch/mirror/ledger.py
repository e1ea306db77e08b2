"""Which files of a staging directory are on storage already.

Each lane of the mirror keeps its ledger in the staging directory, so that an upload continues there
after a crash.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import read_json, write_json
from getiaction_launch.storage.segment import segment_name

FILES, CHECKPOINTS = LANES = ("files", "checkpoints")
COMMITTED = "launch/checkpoints"
"""Where committed checkpoints are; they are uploaded with their markers, and not by ledger."""
BEATS = "launch/beats/"
"""Where the records of what ranks do are."""
_OTHERS = ("launch/plan.json", "launch/progress.json", "launch/resume.lock", COMMITTED)
HEAD = ".head.json"
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
        inode: Number of the file on its disk, as another file may take its name; 0 if unknown.
        head: How the file begins, in hexadecimal, as disks use such numbers again.
    """

    segments: int = 0
    start: int = 0
    end: int = 0
    is_there: bool = True
    inode: int = 0
    head: str = ""

    def objects(self, path: str) -> list[str]:
        """Return the relative paths of the objects that hold the file at ``path``."""
        return [segment_name(path, number) for number in range(self.segments)]


@dataclass(frozen=True)
class _Content:
    files: dict[str, Whole | Segmented] = field(default_factory=dict)
    removals_read: int = 0


class Ledger:
    """What one lane of the mirror has uploaded, in a JSON file.

    Args:
        directory: The run's staging directory.
        lane: Name of the lane, one of :data:`LANES`.
        known: The same ledger as it was read before, in case its file has been deleted.

    Attributes:
        files: Uploaded files by their relative path.
        removals_read: How much of the journal of removals has been read, in bytes.
    """

    def __init__(self, directory: Path, lane: str, known: "Ledger | None" = None) -> None:
        self._path = directory / f".{lane}.json"
        try:
            found = read_json(self._path)
            content = read_dataclass(_Content, found or {}, str(self._path))
            if found is None and known:
                content = _Content(known.files, known.removals_read)
        except (ValueError, RecordError):  # damaged: everything is uploaded again
            content = _Content()
        self.files: dict[str, Whole | Segmented] = content.files
        self.removals_read: int = content.removals_read

    def write(self) -> None:
        """Write the JSON file."""
        files = {path: vars(entry) for path, entry in self.files.items()}
        content = {"files": files, "removals_read": self.removals_read}
        write_json(self._path, content, durable=False)

    def record(self, path: str, entry: Whole | Segmented) -> None:
        """Set the entry of one file, and write the JSON file."""
        self.files[path] = entry
        self.write()


@dataclass(frozen=True)
class Head:
    """Which attempts the files in a staging directory are from.

    Attributes:
        attempt: Number of the attempt that last ran rank 0 on this machine, so that its files are
            the newest; None if there was none.
        prepared: Number of the last attempt that a node of this machine was prepared for.
    """

    attempt: int | None = None
    prepared: int | None = None

    @classmethod
    def read(cls, local: Run) -> "Head":
        """Read the record of a staging directory; an empty one if it is missing or damaged."""
        path = cls._path(local)
        try:
            return read_dataclass(cls, read_json(path) or {}, str(path))
        except (ValueError, RecordError):  # damaged
            return cls()

    def write(self, local: Run) -> None:
        """Write the record into a staging directory."""
        write_json(self._path(local), asdict(self))

    @staticmethod
    def _path(local: Run) -> Path:
        return local.directory / HEAD


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
