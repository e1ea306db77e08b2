"""Uploads and downloads of single files and checkpoints, complete or not at all."""

import sys
import time
from pathlib import Path

from getiaction_launch.errors import StorageError
from getiaction_launch.run.checkpoint import files_of
from getiaction_launch.storage.paths import file_system, reaching, remove

CHUNK_BYTES = 16 << 20
"""Size of the parts of a large file; two of them are in memory at a time."""
TRIES = 3
PAUSE_SECONDS = 2


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a checkpoint; the files of a directory are sorted by name."""
    import hashlib

    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as opened:
            while piece := opened.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def upload(source: Path, target: Path) -> None:
    """Upload one file, with a bounded part of it in memory.

    Args:
        source: Local file to upload.
        target: URL to upload it to.

    Raises:
        StorageError: If the upload fails or is incomplete.
        FileNotFoundError: If the local file does not exist.
    """
    size_bytes = source.stat().st_size
    with reaching(target):
        fs, key = file_system(target)
        parts = {"chunksize": CHUNK_BYTES, "max_concurrency": 2} if "s3" in fs.protocol else {}
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
            sys.stderr.write(f"getiaction-launch: {error}\n")
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _download(source: Path, target: Path) -> None:
    with reaching(source):
        fs, key = file_system(source)
        found = fs.find(key, detail=True)
        for name, info in found.items():
            place = target / name.removeprefix(key).lstrip("/") if name != key else target
            place.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(place))
            if place.stat().st_size != info["size"]:
                raise StorageError(f"{source}: the download of {place.name} is incomplete.")
    if not found:
        raise StorageError(f"{source} does not exist any more.")
