"""Uploads and downloads of single files and checkpoints, complete or not at all."""

import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.uploading.parts import Digest, send
from getiaction_launch.run.checkpoint import files_of
from getiaction_launch.storage.failures import describe, is_failure
from getiaction_launch.storage.objects import is_s3
from getiaction_launch.storage.paths import file_system, kind_of, reaching, remove
from getiaction_launch.storage.tree import find, place_below

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


def upload(source: Path, target: Path, digest: Digest | None = None) -> None:
    """Upload one file, with a bounded part of it in memory.

    Args:
        source: Local file to upload.
        target: URL to upload it to.
        digest: Updated with the bytes that are uploaded; None if nobody needs their hash.

    Raises:
        StorageError: If the upload fails or is incomplete.
        OSError: If the local file cannot be read, or does not exist.
    """
    with source.open("rb") as file:  # below, its errors would count as those of storage
        size_bytes = os.fstat(file.fileno()).st_size
        with reaching(target):
            fs, key = file_system(target)
            if is_s3(fs):
                have = _send(fs, key, file, size_bytes, digest)
            else:
                while digest and (piece := file.read(1 << 20)):
                    digest.update(piece)
                fs.put_file(str(source), key)
                have = int(fs.info(key)["size"])
            # Not by its path: it may have been removed by now, and is there as a whole.
            if have not in (size_bytes, os.fstat(file.fileno()).st_size):
                raise StorageError(f"{target} has only {have} of {size_bytes} bytes.")


def _send(fs: Any, key: str, file: BinaryIO, size_bytes: int, digest: Digest | None) -> int:  # noqa: ANN401 - fsspec has no types
    try:
        return send(fs, key, file, size_bytes, digest)
    except ValueError as error:
        raise StorageError(f"{file.name} cannot be uploaded: {error}.") from error
    except FileNotFoundError as error:  # not the file, which is open: an upload that is unknown
        if is_failure(error):
            raise
        raise StorageError(f"{key} could not be uploaded: {describe(error)}.") from error


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
