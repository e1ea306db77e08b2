"""Uploads and downloads of single files and checkpoints, complete or not at all."""

import sys
import time
from pathlib import Path

from getiaction_launch.errors import StorageError
from getiaction_launch.run.checkpoint import files_of
from getiaction_launch.storage.paths import file_system, kind_of, reaching, remove
from getiaction_launch.storage.tree import find, place_below

PART_BYTES = 16 << 20
"""Size of the parts of a large file, unless there would be too many; two are in memory at a time"""
MAX_PARTS = 10_000
MAX_PART_BYTES = 5 << 30
MAX_OBJECT_BYTES = 5 << 40
"""What S3 allows: docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""
TRIES = 3
PAUSE_SECONDS = 2


def say(words: str) -> None:
    """Write a line to the log of this process."""
    sys.stderr.write(f"getiaction-launch: {words}\n")
    sys.stderr.flush()


def say_refused(path: str, reason: str) -> None:
    """Write to the log of this process that an object is left out of a download, and why."""
    say(f"not downloaded: {path!r}: {reason}")


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a checkpoint; the files of a directory are sorted by name."""
    import hashlib

    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as opened:
            while piece := opened.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def part_bytes(size_bytes: int) -> int:
    """Return the size of the parts in which to upload a file to S3, in bytes.

    Args:
        size_bytes: Size of the file in bytes.

    Raises:
        ValueError: If S3 takes no file of that size.
    """
    if size_bytes > MAX_OBJECT_BYTES:
        raise ValueError(
            f"it has {size_bytes / 2**40:.1f} TiB, and S3 takes files of up to 5 TiB; write it in "
            "several files, as sharded strategies do"
        )
    # One part fewer than allowed: the file may still grow.
    whole_mib = -(-size_bytes // (MAX_PARTS - 1) // 2**20) * 2**20
    return min(max(PART_BYTES, whole_mib), MAX_PART_BYTES)


def upload(source: Path, target: Path) -> None:
    """Upload one file, with a bounded part of it in memory.

    Args:
        source: Local file to upload.
        target: URL to upload it to.

    Raises:
        StorageError: If the upload fails or is incomplete.
        OSError: If the local file cannot be read, or does not exist.
    """
    with source.open("rb"):  # below, its errors would count as those of storage
        size_bytes = source.stat().st_size
    with reaching(target):
        fs, key = file_system(target)
        parts = {}
        if "s3" in fs.protocol:
            try:
                parts = {"chunksize": part_bytes(size_bytes), "max_concurrency": 2}
            except ValueError as error:
                raise StorageError(f"{source} cannot be uploaded: {error}.") from error
        fs.put_file(str(source), key, **parts)
        if (have := fs.info(key)["size"]) != size_bytes and have != source.stat().st_size:
            raise StorageError(f"{target} has only {have} of {size_bytes} bytes.")


def download(source: Path, target: Path) -> None:
    """Download a file, or a directory with all its files, and retry if that fails.

    Args:
        source: URL of the file or directory.
        target: Local path for it; nothing may exist there.

    Raises:
        StorageError: If the last retry fails too.
    """
    for tries in range(1, TRIES + 1):
        try:
            _download(source, target)
        except StorageError as error:  # noqa: PERF203 - nothing beside a network
            remove(target)
            if tries == TRIES:
                raise
            say(str(error))
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _download(source: Path, target: Path) -> None:
    kind = kind_of(source)
    if kind is None:
        raise StorageError(f"{source} does not exist any more.")
    if kind == "file":
        target.parent.mkdir(parents=True, exist_ok=True)
        _download_file(source, target)
        return
    found = find(source)
    for name, reason in found.refused.items():
        raise StorageError(f"{source}: {name!r} cannot be downloaded: {reason}.")
    target.mkdir(parents=True)
    for path in found.sizes:
        _download_file(source / path, place_below(target, path, create=True))


def _download_file(source: Path, place: Path) -> None:
    with reaching(source):
        fs, key = file_system(source)
        fs.get_file(key, str(place))
        if place.stat().st_size != int(fs.info(key)["size"]):
            raise StorageError(f"{source}: the download is incomplete.")
