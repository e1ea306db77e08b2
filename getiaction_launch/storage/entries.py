"""What is in a directory, each with its kind and time: one request, where a look at each costs."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.objects import list_objects
from getiaction_launch.storage.paths import file_system, is_remote, reaching

_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")
"""How fsspec's file systems name the time of a file."""


@dataclass(frozen=True)
class DirectoryEntry:
    """A file or directory.

    Attributes:
        name: Its name, without the directory.
        is_folder: Whether it is a directory, or a link to one.
        written_at: When it was last written, in seconds since the epoch; None if that is unknown,
            as of directories on object storage.
        version: What differs whenever the file was replaced; None if it is not known.
    """

    name: str
    is_folder: bool
    written_at: float | None = None
    version: object = None


def read_entries(directory: Path) -> list[DirectoryEntry]:
    """List a directory; return nothing if it does not exist, or may not be read.

    Names that begin with a dot, and on remote storage those that no file can have, are left out.

    Args:
        directory: Path or URL of the directory.

    Raises:
        StorageError: If remote storage does not answer.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if is_remote(directory):
            with reaching(directory):  # which is for it to say whether a bucket is missing
                found = list_objects(*file_system(directory))
            entries = [
                DirectoryEntry(
                    str(info["name"]).rpartition("/")[2],
                    info["type"] == "directory",
                    _time_of(info),
                    info.get("ETag"),
                )
                for info in found
            ]
            return [e for e in entries if not why_refused(e.name) and e.name[0] != "."]
        with contextlib.suppress(PermissionError), os.scandir(directory) as here:
            return [_local(entry) for entry in here if entry.name[0] != "."]
    return []


def _local(entry: "os.DirEntry[str]") -> DirectoryEntry:
    is_folder, written_at = False, None
    with contextlib.suppress(OSError):  # a link that leads to itself, or removed since
        is_folder = entry.is_dir()
        written_at = entry.stat(follow_symlinks=False).st_mtime
    return DirectoryEntry(entry.name, is_folder, written_at)


def _time_of(info: dict[str, object]) -> float | None:
    for key in _TIMES:
        time = info.get(key)
        if isinstance(time, (int, float)):
            return float(time)
        if stamp := getattr(time, "timestamp", None):
            return float(stamp())
    return None
