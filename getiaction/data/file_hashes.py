"""Hashes of the contents of large files, which one process of a node computes for all others.

To hash files is to read all of them, so the cache remembers the hashes as long as the files have
the same size, times and inodes, as git's index does. No program can set the time of a file's last
change (ctime), so it is another one whenever contents were written, whatever else was restored.
That holds where the file system keeps such a time, and if the last change is so old that the clock
has moved on since; not for pages that somebody has mapped and still writes to. Otherwise, hashes
count only for those who asked for them before the files were read, such as ranks that start
together.
"""

import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import psutil

from getiaction.data.cache_lock import waiting_for_others
from getiaction.data.columns import MAX_READ_AT_ONCE

T = TypeVar("T")

# How long after a change no other one can have the same time, by kind of file system: longer than
# it rounds times to and, where they are those of a server, than two clocks differ (MUNGE and
# Kerberos allow five minutes).
# Beware: others may not keep the time of a change. In images such as SquashFS it is what their
# maker wants, FUSE may have none, and an overlay has those of the file systems below.
SETTLED_AFTER_SECONDS = {
    **dict.fromkeys(
        ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"), 5.0
    ),
    **dict.fromkeys(("beegfs", "ceph", "gpfs", "lustre", "nfs", "nfs4", "wekafs"), 600.0),
}
UNUSED_FOR_SECONDS = 30 * 24 * 3600.0
CHUNK_BYTES = 2**20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def hash_files(files: Sequence[Path], folder: Path) -> list[str]:
    """Return the SHA-256 of the contents of each file.

    If several processes ask at the same time, one reads the files and the others wait.

    Args:
        files: Files whose contents are hashed.
        folder: Folder of the cache for what was computed; nothing is remembered if it cannot be
            written.

    Raises:
        OSError: A file cannot be read.
    """
    asked_at = time.monotonic_ns()
    stats = for_each(_stat, files)
    is_settled = _are_settled(files, stats)
    # The boot has one clock for all processes of the machine, whichever container they are in.
    boot = None if is_settled else _BOOT_ID.read_text(encoding="ascii")
    key = json.dumps(
        [[str(file.absolute()) for file in files], _facts(stats), boot], allow_nan=False
    )
    record = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"

    def find() -> list[str]:
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is not there, or is damaged
            found = json.loads(record.read_text(encoding="utf-8"))
            if is_settled or found["begun_at"] >= asked_at:
                return [str(each) for each in found["hashes"]]
        return []

    if not (hashes := find()):
        work = f"reads {files[0].parent} to see whether it has changed"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        with waiting_for_others(record, work, lambda: bool(find())):
            if not (hashes := find()):
                begun_at = time.monotonic_ns()
                hashes = for_each(_hash, files)
                if _facts(for_each(_stat, files)) == _facts(stats):
                    _write(record, {"hashes": hashes, "begun_at": begun_at})
    with suppress(OSError):  # another user's
        os.utime(record)
    return hashes


def for_each(function: Callable[[Path], T], files: Sequence[Path]) -> list[T]:
    """Call a function for each file, for several at a time, and return all results.

    Args:
        function: Function of a file.
        files: Files that it is called for.
    """
    with ThreadPoolExecutor(MAX_READ_AT_ONCE) as threads:
        return list(threads.map(function, files))


def _stat(file: Path) -> os.stat_result:
    # Beware: NFS asks the server about a file when it is opened, and may otherwise repeat what was
    # true a minute ago.
    with file.open("rb", buffering=0) as content:
        return os.fstat(content.fileno())


def _facts(stats: Sequence[os.stat_result]) -> list[list[int]]:
    # Without the device, whose number is another one after a restart of the machine.
    return [[each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino] for each in stats]


def _are_settled(files: Sequence[Path], stats: Sequence[os.stat_result]) -> bool:
    """Return whether each later change of contents gives a file another time than it has now."""
    places = {each.st_dev: file for each, file in zip(stats, files, strict=True)}
    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    kinds = [_kind(file.resolve(), mounts) for file in places.values()]
    age_seconds = time.time() - max(each.st_ctime for each in stats)
    return age_seconds > max(SETTLED_AFTER_SECONDS.get(kind, math.inf) for kind in kinds)


def _kind(file: Path, mounts: Mapping[Path, str]) -> str:
    return next((mounts[each] for each in file.parents if each in mounts), "")


def _hash(file: Path) -> str:
    found = hashlib.sha256()
    with file.open("rb", buffering=0) as content:
        while chunk := content.read(CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def _write(record: Path, content: Mapping[str, object]) -> None:
    """Write a record, which others see when it is complete, and remove those that nobody uses."""
    unfinished = record.with_name(f".{record.stem}.{uuid.uuid4().hex}")
    with suppress(OSError):  # the next process computes the hashes again
        try:
            unfinished.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
            unfinished.replace(record)
        finally:
            unfinished.unlink(missing_ok=True)
        oldest = time.time() - UNUSED_FOR_SECONDS
        for other in record.parent.iterdir():
            with suppress(OSError):  # another process removes it, too
                if other.suffix != ".lock" and other.stat().st_mtime < oldest:
                    other.unlink()
