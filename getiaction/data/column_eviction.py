"""Removes the cached columns that were not used for longest, and none that a process has mapped.

A process holds a shared lock of an entry while it lives, and who removes one needs the lock alone.
Where files cannot be locked, nothing is removed.
"""

import fcntl
import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

VARIABLE, DEFAULT_GB = "GETIACTION_COLUMNS_GB", 100.0
_LOCKED = "keys.json"

# Descriptors that are never closed: arrays may outlive the object that has mapped them.
_held: dict[Path, int] = {}


def hold(folder: Path) -> None:
    """Keep an entry from being removed while this process lives, and mark it as used now.

    Args:
        folder: Folder of the entry.

    Raises:
        FileNotFoundError: It does not exist, or was removed just now.
        OSError: It cannot be read.
    """
    with suppress(OSError):  # another user's
        os.utime(folder)
    path = folder / _LOCKED
    if folder in _held and os.path.samestat(os.fstat(_held[folder]), path.stat()):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with suppress(OSError):  # without locks, nobody removes it
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        is_there = os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        is_there = False
    if not is_there:
        os.close(descriptor)
        raise FileNotFoundError(path)
    _held[folder] = descriptor


def evict(newest: Path, limit: float) -> None:
    """Remove entries beyond a size, beginning with those that were not used for longest.

    Args:
        newest: Folder of an entry that stays.
        limit: Bytes that all entries may have.
    """
    found = []
    for lock in newest.parent.glob(f"[!.]*/{_LOCKED}"):  # other folders are somebody else's
        with suppress(OSError):  # another process removes it
            size = sum(file.stat().st_size for file in lock.parent.iterdir())
            found.append((lock.parent.stat().st_mtime, size, lock.parent))
    total = sum(size for _, size, _ in found)
    for _, size, folder in sorted(found):
        if total <= limit:
            return
        if folder != newest:
            with suppress(OSError):  # in use, or another user's
                _remove(folder)
                total -= size


def _remove(folder: Path) -> None:
    removed = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    with (folder / _LOCKED).open("r+b") as file:  # on NFS, the lock needs a file that is written
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)
