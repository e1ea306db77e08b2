"""A directory on remote storage with everything in it, and its files' places on a disk."""

import contextlib
import errno
import os
from collections.abc import Sequence
from pathlib import Path

from getiaction_launch.errors import StorageError
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.keys import Found, split, why_refused
from getiaction_launch.storage.paths import file_system, reaching

_OF_NAMES = {
    *(errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ELOOP),
    *(errno.ENOTDIR, errno.EISDIR),
}


def find(directory: Path) -> Found:
    """Find all objects below a directory on remote storage; nothing if it does not exist.

    Raises:
        StorageError: If storage refuses the request or does not answer.
    """
    with reaching(directory):
        fs, root = file_system(directory)
        found = fs.find(root, detail=True)
    return split(root, {key: int(info["size"]) for key, info in found.items() if key != root})


def remove_all(directory: Path, keys: Sequence[str]) -> None:
    """Remove objects below a directory on remote storage; those that are gone are passed over.

    Args:
        directory: A directory that the objects are in.
        keys: The keys of the objects, in the bucket.

    Raises:
        StorageError: If storage refuses a request or does not answer.
    """
    fs, _ = file_system(directory)

    def remove_object(key: str) -> None:
        # Not rm(), which would take a bracket or a star in a key for a pattern.
        with reaching(directory), contextlib.suppress(FileNotFoundError):
            fs.rm_file(key)

    for_each(remove_object, keys, directory)


def place_below(directory: Path, path: str, *, create: bool = False) -> Path:
    """Return where a file of that relative path belongs, and make the directories above it.

    Args:
        directory: A local directory; it exists.
        path: The file's path, relative to the directory, as :func:`find` returns it.
        create: Whether to create the file, which must not exist. That also refuses a name which
            differs only in case from another one, where the file system ignores case.

    Raises:
        StorageError: If the path leaves the directory, also by a link in it, or the file system
            cannot have such a file. The message has only the reason.
        OSError: If the disk refuses for another reason.
    """
    if reason := why_refused(path):
        raise StorageError(reason)
    place = directory / path
    try:
        reason = _why_not(place, directory)
        if reason is None:
            place.parent.mkdir(parents=True, exist_ok=True)
            if create:
                os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        reason = "another file has this name, or one that counts as the same"
    except OSError as error:
        if error.errno not in _OF_NAMES:  # a full disk is another matter
            raise
        reason = f"this machine cannot have such a file: {error.strerror}"
    if reason:
        raise StorageError(reason)
    return place


def _why_not(place: Path, directory: Path) -> str | None:
    if not place.parent.resolve().is_relative_to(directory.resolve()):
        return "a link leads out of its directory"
    return "there is a link in its place" if place.is_symlink() else None
