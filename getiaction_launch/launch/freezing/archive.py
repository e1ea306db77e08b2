"""The copy of the user's code: one archive for each content, in the directory that holds the runs.

One file is one request on object storage, whose hash says at once that it is whole. On a disk that
many nodes share, it is also faster to read than a tree of small files, which every worker of every
node would look through for each import.
"""

import contextlib
import gzip
import hashlib
import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.launch.freezing.files import Files
from getiaction_launch.mirror.transfer import upload
from getiaction_launch.storage.paths import is_remote, open_path

FOLDER = ".code"
WRITTEN_AT = 946_684_800
"""Time of every file in an archive, whose bytes depend on the code alone: the year 2000."""
_LEVEL = 1


def store(write: Callable[[Path], str], root: str, *, is_private: bool) -> tuple[str, str]:
    """Write the archive of the user's code; the same code is the same file.

    Args:
        write: Writes the archive to a path, where nothing exists, and returns its SHA-256.
        root: Path or URL of the directory that holds all runs; it exists.
        is_private: Whether others may not read one of the files in it.

    Returns:
        The path of the archive, relative to the root, and its SHA-256.

    Raises:
        OSError: If a file cannot be read or written.
        StorageError: If remote storage does not answer.
    """
    place = open_path(root)
    folder = FOLDER if is_remote(place) else _folder(place)
    with tempfile.TemporaryDirectory(dir=None if is_remote(place) else place / folder) as arriving:
        packed = Path(arriving, "code.tar.gz")
        digest = write(packed)
        name = f"{folder}/{digest}.tar.gz"
        if is_remote(place):
            # Also if it is there: only what was written just now is known to be whole.
            upload(packed, place / name)
        else:
            if not is_private:
                packed.chmod(0o666 & ~_umask())
            packed.replace(place / name)
    return name, digest


def digest_of(files: Files) -> str:
    """Return the SHA-256 that the archive of the user's code would have.

    Raises:
        OSError: If a file cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        return pack(files, Path(folder, "code.tar.gz"))


def contents_of(files: Files) -> str:
    """Return a SHA-256 of the names, modes and contents of the user's code.

    Unlike that of an archive, it does not depend on the library that compresses.

    Raises:
        OSError: If a file cannot be read.
    """
    found = hashlib.sha256()
    for name, mode, content in _each(files):
        digest = hashlib.sha256(content).hexdigest()
        found.update(f"{digest} {mode:o} {name!r}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def _each(files: Files) -> Iterator[tuple[str, int, bytes]]:
    """Return the name, the mode and the content of each file, in the order of the names."""
    for name in sorted(files.sizes):
        path = files.root / name
        with contextlib.suppress(FileNotFoundError):  # removed since it was found
            yield name, 0o755 if os.access(path, os.X_OK) else 0o644, path.read_bytes()


def _folder(root: Path) -> str:
    """Return the name of the directory for archives of this user, and create it."""
    own = f"{FOLDER}-{os.geteuid()}"
    for name in (FOLDER, own):
        with contextlib.suppress(FileExistsError):
            (root / name).mkdir()
        found = (root / name).lstat()  # not what a link leads to
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
            return name
    return own


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def pack(files: Files, packed: Path) -> str:
    """Write the files into an archive of which every byte depends on them alone.

    Args:
        files: The files to copy.
        packed: Path of the archive, which does not exist.

    Returns:
        The SHA-256 of the archive.

    Raises:
        OSError: If a file cannot be read or written.
    """
    descriptor = os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as raw:
        with (
            gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as compressed,
            tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, mode, content in _each(files):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime, entry.mode = len(content), WRITTEN_AT, mode
                archive.addfile(entry, io.BytesIO(content))
        raw.flush()
        os.fsync(raw.fileno())
    return hashlib.sha256(packed.read_bytes()).hexdigest()
