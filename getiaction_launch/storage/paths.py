"""Where runs live: paths and URLs resolved, and small files written so that no reader sees a half.

A path is a ``pathlib.Path``; a URL of any fsspec file system is a ``UPath``, which has the same
methods. This module is the one door to fsspec: it opens file systems with settings of our own,
since those of Lightning, TensorBoard and the user's code cache listings for ever and wait minutes
for a server that is silent, and it has their errors be :class:`StorageError`.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from getiaction_launch.errors import SpecError, StorageError

_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)
_S3_PROTOCOLS = ("s3", "s3a")


def resolve_root(root: str, base: str) -> str:
    """Make ``root`` absolute.

    Args:
        root: The user's ``default_root_dir``: a path, a ``file://`` URL, or a URL of any other
            file system that fsspec knows.
        base: The directory or URL under which a relative path lies.

    Raises:
        SpecError: For a URL that is none.
    """
    root, base = (place.removeprefix("file://") for place in (root, base))
    if "://" in root:
        return _check_url(root)
    if broken := re.match(r"([a-z0-9]{2,}):/", root):
        raise SpecError(
            f"default_root_dir={root!r} is a URL that has lost a slash, as Path() makes of one.",
            f"Write it as a string: {broken[1]}://{root[broken.end() :]}",
        )
    place = Path(root).expanduser()
    if "://" in base and not place.is_absolute():
        return _check_url(f"{base.rstrip('/')}/{place}")
    return str(Path(base, place).absolute())


def _check_url(url: str) -> str:
    from fsspec.registry import known_implementations, registry

    protocol, _, path = url.partition("://")
    if protocol not in known_implementations and protocol not in registry:
        raise SpecError(
            f"default_root_dir={url!r}: no file system is known as {protocol}://.",
            "A path, or a URL such as s3://bucket/experiments",
        )
    if not path.strip("/") and protocol != "memory":
        raise SpecError(
            f"default_root_dir={url!r} names no bucket.", f"{protocol}://bucket/experiments"
        )
    return url.rstrip("/")


def open_path(place: str | Path, *, read_seconds: float = 10, tries: int = 3) -> Path:
    """Open a path, or a URL as something that has a path's methods.

    Args:
        place: Which.
        read_seconds: How long an S3 server may be silent.
        tries: How often it is asked.

    Raises:
        StorageError: If what its file system needs is not installed.
    """
    if "://" not in str(place):
        return Path(place)
    from upath import UPath

    protocol = str(place).partition("://")[0]
    try:
        path = UPath(str(place), **_settings(protocol, read_seconds, tries))
        if protocol in _S3_PROTOCOLS:
            path.fs.retries = min(tries, 2)  # of its own, around those of the client
    except (ImportError, ValueError) as error:
        raise StorageError(f"{place} cannot be opened: {error}.", "pip install it") from error
    return cast("Path", path)


def _settings(protocol: str, read_seconds: float, tries: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"use_listings_cache": False}
    if protocol in _S3_PROTOCOLS:
        from fsspec.config import conf  # FSSPEC_S3_* variables and ~/.config/fsspec

        settings["config_kwargs"] = {
            "connect_timeout": min(5, read_seconds),
            "read_timeout": read_seconds,
            "retries": {"total_max_attempts": tries, "mode": "standard"},
            **conf.get(protocol, {}).get("config_kwargs", {}),
        }
    return settings


def use_options(url: str, options: Mapping[str, Any]) -> None:
    """Have every process from here on open the file system of ``url`` with ``options`` of fsspec.

    By fsspec's own variable, ``FSSPEC_<PROTOCOL>``, so that jobs get them where they get this
    process's environment, and no file does.
    """
    protocol, separator, _ = url.partition("://")
    if not options or not separator:
        return
    os.environ.setdefault(f"FSSPEC_{protocol.upper()}", json.dumps(dict(options)))
    if "fsspec" in sys.modules:
        from fsspec.config import conf

        conf.setdefault(protocol, {}).update(options)


def is_remote(path: Path) -> bool:
    """Whether ``path`` is a URL."""
    return not isinstance(path, Path)


def file_system(path: Path) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    remote: Any = path
    opened = remote.fs
    if getattr(opened, "_pid", None) not in (None, os.getpid()):
        # This process was forked, and clients refuse to use the connections of another.
        remote._fs_cached = type(opened)(*opened.storage_args, **opened.storage_options)  # noqa: SLF001
        if hasattr(opened, "retries"):
            remote.fs.retries = opened.retries
    return remote.fs, remote.path


@contextlib.contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Have what a remote file system raises be a StorageError, but for files that are not there.

    Raises:
        StorageError: Instead.
    """
    try:
        if is_remote(path):
            file_system(path)  # for the path's own methods too, after a fork
        yield
    except (*_MISSING, StorageError):
        raise
    except Exception as error:
        if not is_remote(path) or not _is_of_storage(error):
            raise
        raise StorageError(f"{path}: {describe(error)}.", "See docs/storage.md") from error


def _is_of_storage(error: Exception) -> bool:
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or package in ("botocore", "aiobotocore", "aiohttp", "fsspec")


def describe(error: BaseException) -> str:
    """What a file system says, with the code behind it where the words are missing."""
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    words = str(error).partition("\n")[0].removesuffix(".")
    if words.endswith("None"):  # some servers send a code and no words
        words = ""
    words = words or code or type(error).__name__
    return f"{words} ({code})" if code and code not in words else words


def modified_at(path: Path) -> float:
    """When a file was last written, in seconds since the epoch by its file system's clock."""
    if not is_remote(path):
        return path.stat().st_mtime
    with reaching(path):
        fs, key = file_system(path)
        return float(fs.modified(key).timestamp())


def owner_of(directory: Path) -> int:
    """The user id that a directory belongs to; storage knows none, and this process's stands in."""
    return os.getuid() if is_remote(directory) else directory.stat().st_uid


def children(directory: Path) -> list[Path]:
    """What lies in a directory; nothing where there is none."""
    with reaching(directory):
        try:
            return list(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory with all that is in it, if it is there."""
    if is_remote(path):
        with reaching(path), contextlib.suppress(FileNotFoundError):
            fs, key = file_system(path)
            fs.rm(key, recursive=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Replace ``path`` in one step: a reader sees the old content or the new, never a part.

    Args:
        path: Where.
        content: What.
        durable: Whether it must survive a power failure, which costs a wait for the disk.

    Raises:
        StorageError: If a remote file system does not take it.
    """
    if is_remote(path):
        with reaching(path):
            fs, key = file_system(path)
            fs.pipe_file(key, f"{json.dumps(content, indent=2)}\n".encode())  # one PUT
        return
    # The temporary file lies beside its target: a rename across file systems is a copy.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def last_line(path: Path) -> str | None:
    """The last line of a log that is not blank, or empty; None where there is no log to read."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return None
    return next((line for line in reversed(lines) if line.strip()), "")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what :func:`write_json` wrote, or None where there is nothing.

    Raises:
        StorageError: If a remote file system does not say.
    """
    try:
        content: dict[str, Any] = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def read_bytes(path: Path) -> bytes:
    """Read a small file at once, so that it is not replaced meanwhile.

    Raises:
        FileNotFoundError: If it is not there.
        StorageError: If a remote file system does not say.
    """
    if not is_remote(path):
        return path.read_bytes()
    fs, key = file_system(path)
    with reaching(path):
        try:
            return bytes(fs.cat_file(key))
        except Exception as error:
            # Some servers mix a file that is being replaced with its successor.
            if "Checksum" not in type(error).__name__:
                raise
        time.sleep(0.5)
        return bytes(fs.cat_file(key))
