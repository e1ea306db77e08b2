"""Files brought to storage and back, each of them whole or not at all."""

import sys
import time
from pathlib import Path

from getiaction_launch.errors import StorageError
from getiaction_launch.run.checkpoint import files_of
from getiaction_launch.storage.paths import file_system, reaching, remove

CHUNK_BYTES = 16 << 20
"""Of a large file; two of them are in memory at a time."""
PAUSE_SECONDS = 2


def hash_of(path: Path) -> str:
    """SHA-256 of a checkpoint; of a directory, of its files in the order of their names."""
    import hashlib

    digest = hashlib.sha256()
    for file in files_of(path):
        with file.open("rb") as opened:
            while piece := opened.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def upload(source: Path, target: Path) -> None:
    """Bring one file to storage, whole or not at all, with a bounded part of it in memory.

    Raises:
        StorageError: If that fails, or not all of it has come.
        FileNotFoundError: If it is not there.
    """
    size_bytes = source.stat().st_size
    with reaching(target):
        fs, key = file_system(target)
        parts = {"chunksize": CHUNK_BYTES, "max_concurrency": 2} if "s3" in fs.protocol else {}
        fs.put_file(str(source), key, **parts)
        if (have := fs.info(key)["size"]) != size_bytes and have != source.stat().st_size:
            raise StorageError(f"{target} has {have} bytes of {size_bytes}.")


def download(source: Path, target: Path, tries: int = 3) -> None:
    """Bring a file, or a directory of files, from storage to a place where nothing is.

    Args:
        source: A URL.
        target: Where to.
        tries: How often that may fail, but for the last.

    Raises:
        StorageError: If it does so each time.
    """
    try:
        _download(source, target)
    except StorageError as error:
        remove(target)
        if tries <= 1:
            raise
        sys.stderr.write(f"getiaction-launch: {error}\n")
        time.sleep(PAUSE_SECONDS)
        download(source, target, tries - 1)


def _download(source: Path, target: Path) -> None:
    with reaching(source):
        fs, key = file_system(source)
        found = fs.find(key, detail=True)
        for name, told in found.items():
            place = target / name.removeprefix(key).lstrip("/") if name != key else target
            place.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(name, str(place))
            if place.stat().st_size != told["size"]:
                raise StorageError(f"{source}: {place} is not whole.")
    if not found:
        raise StorageError(f"{source} is gone.")
