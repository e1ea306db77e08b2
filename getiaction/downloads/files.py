"""Downloads a file once for all processes of a machine, whole or not at all."""

import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from getiaction.downloads.versions import FileChangedError, Version, get_file, read_versions

MAX_AT_ONCE = 16
PAUSES_SECONDS = (1.0, 5.0, 20.0)  # before each further attempt

# What flock says where it is not supported, such as on Lustre that is mounted without `-o flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}

# Beware: fsspec forgets its file systems in a forked process, where the end of one would close the
# connections of the parent.
_opened: dict[int, Any] = {}
_held: set[Path] = set()


class DownloadError(Exception):
    """A file could not be downloaded; its cause is `__cause__`.

    Attributes:
        name: Path of the file, relative to the URL.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def open_url(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Args:
        url: URL that fsspec supports.
    """
    import fsspec

    filesystem, path = fsspec.url_to_fs(url)
    _opened[id(filesystem)] = filesystem
    return filesystem, path


def download(url: str, folder: Path, names: Iterable[str], *, again: bool = False) -> None:
    """Download files that are not in a folder yet, several at a time.

    Args:
        url: URL that fsspec supports, of the folder with the files.
        folder: Local folder to download into.
        names: Paths of the files, relative to both.
        again: Whether to download files that are there already, too.

    Raises:
        DownloadError: A file could not be downloaded, and the others were not begun any more.
    """
    filesystem, root = open_url(url)
    # Each file is a request or more, of which one at a time would take hours for thousands.
    with ThreadPoolExecutor(MAX_AT_ONCE) as threads:
        for _ in threads.map(
            lambda name: download_file(filesystem, root, folder, name, again=again), names
        ):
            pass  # the first error cancels the downloads that have not begun


def download_file(
    filesystem: Any,  # noqa: ANN401 - fsspec ships no types
    root: str,
    folder: Path,
    name: str,
    *,
    again: bool = False,
) -> None:
    """Download a file, unless it is there or another process or thread has just downloaded it.

    On a file system without locks, those that need a file at the same time each download it, and
    the last one that is complete stays.

    Args:
        filesystem: File system of fsspec that has the file.
        root: Path of the remote folder in it.
        folder: Local folder to download into.
        name: Path of the file, relative to both.
        again: Whether to download a file that is there already.

    Raises:
        DownloadError: Every attempt has failed, or another one would fail, too, as if the file is
            another one than the folder's listing has.
    """
    target = folder / name
    if not again and target.is_file():
        return
    try:
        version = read_versions(folder).get(name, Version())
        target.parent.mkdir(parents=True, exist_ok=True)
        # What a killed process leaves there is locked by nobody, and is overwritten.
        with _locked(target.with_name(f".{target.name}.part")) as partial:
            if not again and target.is_file():
                partial.unlink()
                return
            try:
                _get_file(filesystem, f"{root}/{name}", partial, version)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            partial.replace(target)
    except Exception as error:  # each fsspec backend has its own exceptions
        raise DownloadError(name) from error


def remove_unfinished() -> None:
    """Remove the files that this process has not finished, before it ends in the middle."""
    for partial in list(_held):
        partial.unlink(missing_ok=True)


def is_full(error: BaseException | None) -> bool:
    """Return whether a download has failed because the disk has no room for it.

    Args:
        error: Cause of a `DownloadError`.
    """
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}


def is_final(error: BaseException | None) -> bool:
    """Return whether another attempt at a file would fail, too.

    Args:
        error: Cause of a `DownloadError`.
    """
    final = (FileNotFoundError, PermissionError, FileChangedError)
    return isinstance(error, final) or is_full(error)


@contextmanager
def _locked(partial: Path) -> Iterator[Path]:
    """Hold the lock of an unfinished file, which then exists, or make another without locks."""
    while True:
        is_new = not partial.exists()
        with partial.open("ab") as file:
            has_locks = _lock(file.fileno())
            if not has_locks:
                if is_new:
                    partial.unlink(missing_ok=True)
                partial = partial.with_name(f"{partial.stem}.{uuid.uuid4().hex}.part")
                partial.touch()
            try:
                # Who held the lock before may have moved or removed the file.
                if not has_locks or _is_at(file.fileno(), partial):
                    _held.add(partial)
                    yield partial
                    return
            finally:
                _held.discard(partial)
                # Beware: closing is not enough if a process was forked in the meantime.
                if has_locks:
                    fcntl.flock(file, fcntl.LOCK_UN)


def _lock(descriptor: int) -> bool:
    """Wait for the lock of a file; return False if its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _get_file(filesystem: Any, remote: str, partial: Path, version: Version) -> None:  # noqa: ANN401 - as above
    pauses_s = iter(PAUSES_SECONDS)
    while True:
        try:
            get_file(filesystem, remote, partial, version)
            break
        except Exception as error:
            pause_s = next(pauses_s, None)
            if pause_s is None or is_final(error):
                raise
            time.sleep(pause_s)
