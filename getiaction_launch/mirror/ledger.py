"""Which files of a staging directory are on storage already.

Each lane of the mirror keeps its ledger in the staging directory, so that an upload continues there
after a crash.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import read_json, write_json
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.storage.untrusted import parse_json, read_limited

FILES, CHECKPOINTS = LANES = ("files", "checkpoints")
COMMITTED = "launch/checkpoints"
"""Where committed checkpoints are; they are uploaded with their markers, and not by ledger."""
BEATS = "launch/beats/"
"""Where the records of what ranks do are."""
_OTHERS = ("launch/plan.json", "launch/progress.json", "launch/resume.lock", COMMITTED)
HEAD = ".head.json"
POLL_SECONDS = 0.5
LIMIT_BYTES = 1 << 30
"""Size up to which a ledger is read: that of some million files."""


@dataclass(frozen=True)
class Whole:
    """A file that is uploaded again whenever it changes.

    Attributes:
        size: Size of the uploaded file in bytes.
        mtime_ns: Modification time of the uploaded file in nanoseconds.
    """

    size: int
    mtime_ns: int

    @property
    def is_to_arrive(self) -> bool:
        """Whether storage has the file, and this machine does not have it yet."""
        return self.mtime_ns < 0

    @classmethod
    def to_arrive(cls, size_bytes: int) -> "Whole":
        """Describe a file that only storage has."""
        return cls(size_bytes, -1)

    @classmethod
    def of(cls, stat: os.stat_result) -> "Whole":
        """Describe the present state of a file."""
        return cls(stat.st_size, stat.st_mtime_ns)


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


@dataclass(frozen=True)
class _Content:
    files: dict[str, Whole | Segmented] = field(default_factory=dict)
    removals_read: int = 0


class Ledger:
    """What one lane of the mirror has uploaded: a JSON file, and a journal of what came since.

    A change is one line of the journal, however many files there are. :meth:`write` puts all of
    them into the JSON file.

    Args:
        directory: The run's staging directory.
        lane: Name of the lane, one of :data:`LANES`.
        known: The same ledger as it was read before, in case its file has been deleted.

    Attributes:
        files: Uploaded files by their relative path.
        removals_read: How much of the journal of removals has been read, in bytes.
        stamp: Which version of the JSON file this is; None if there is none.
    """

    def __init__(self, directory: Path, lane: str, known: "Ledger | None" = None) -> None:
        self._path, self._journal = directory / f".{lane}.json", directory / f".{lane}.jsonl"
        self._lock = threading.Lock()
        self.stamp = _stamp(self._path)
        if known and known.stamp == self.stamp is not None and not self._journal.exists():
            content = known.written
        else:
            content = self._read(known)
        self.files: dict[str, Whole | Segmented] = content.files
        self.removals_read: int = content.removals_read
        self._removals_written = self.removals_read

    @property
    def written(self) -> _Content:
        """What the JSON file holds, once there is no journal."""
        return _Content(self.files, self._removals_written)

    def write(self) -> None:
        """Write the JSON file, which then needs no journal."""
        files = {path: vars(entry) for path, entry in self.files.items()}
        content = {"files": files, "removals_read": self.removals_read}
        write_json(self._path, content, durable=False)
        self._journal.unlink(missing_ok=True)
        self.stamp, self._removals_written = _stamp(self._path), self.removals_read

    def write_changes(self) -> None:
        """Write the JSON file, unless it holds everything already."""
        is_old = self._removals_written != self.removals_read or self._journal.exists()
        if is_old or _stamp(self._path) is None:
            self.write()

    def record(self, path: str, entry: Whole | Segmented) -> None:
        """Set the entry of one file, which outlives this process; threads may call it."""
        with self._lock:
            self.files[path] = entry
            self._note(path, vars(entry))

    def forget(self, path: str) -> None:
        """Remove the entry of one file in the same way."""
        with self._lock:
            del self.files[path]
            self._note(path, None)

    def _note(self, path: str, entry: dict[str, object] | None) -> None:
        with self._journal.open("ab") as journal:
            # The line before may have been cut off: this one does not continue it.
            journal.write(f"\n{dumps({path: entry})}".encode())

    def _read(self, known: "Ledger | None") -> _Content:
        source = str(self._path)
        try:
            content = read_dataclass(
                _Content, parse_json(read_limited(self._path, LIMIT_BYTES), source) or {}, source
            )
        except (FileNotFoundError, NotADirectoryError):
            content = _Content(known.files, known.removals_read) if known else _Content()
        except (ValueError, RecordError):  # damaged: everything is uploaded again
            content = _Content()
        with contextlib.suppress(FileNotFoundError, RecordError):
            for line in read_limited(self._journal, LIMIT_BYTES).splitlines():
                # A line is cut off if the process was killed, or the disk was full.
                with contextlib.suppress(ValueError, RecordError):
                    for path, entry in (parse_json(line, source) or {}).items():
                        content.files.pop(path, None)
                        if entry is not None:
                            changed = read_dataclass(_Content, {"files": {path: entry}}, source)
                            content.files.update(changed.files)
        return content


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return what another file under the same name would differ in; None if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


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
    return CHECKPOINTS if "checkpoints" in path.split("/")[:-1] else FILES


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
