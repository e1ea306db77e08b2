"""Paths and URLs of runs, and atomic reads and writes of small files.

A path is a ``pathlib.Path``; a URL of any fsspec file system is a ``UPath``, which has the same
methods. Both are typed as ``Path``: nearly all code works with either, and a union of the two would
need a check or a cast in every folder that uses a local one.

All file systems are opened here, with settings of our own: the defaults, which Lightning,
TensorBoard and the user's code share, cache listings forever and wait for minutes if a server is
silent. Errors of file systems become :class:`~getiaction_launch.errors.StorageError`.
"""

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from getiaction_launch.errors import RecordError, SpecError, StorageError
from getiaction_launch.storage.failures import describe, in_words, is_failure
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.objects import list_objects, read_object, remove_objects
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.storage.untrusted import parse_json, read_limited, read_tail

_S3_PROTOCOLS = ("s3", "s3a")


def resolve_root(root: str, base: str) -> str:
    """Make ``root`` absolute.

    Args:
        root: The user's ``default_root_dir``: a path, or any URL that fsspec supports.
        base: The directory or URL that a relative path is relative to.

    Returns:
        The absolute path or the URL.

    Raises:
        SpecError: If the URL is not valid.
    """
    root, base = (re.sub(r"^file:(//|(?=/))", "", place) for place in (root, base))
    if "://" in root:
        return _check_url(root)
    for flag, given in (("trainer.default_root_dir", root), ("storage-root", base)):
        if broken := re.match(r"([a-z0-9]{2,}):/(?!/)", given):
            raise SpecError(
                f"{flag.replace('-', '_')}={given!r} is a URL that lost a slash, as in a Path.",
                f"Use a string: --{flag}={broken[1]}://{given[broken.end() :]}",
            )
    place = Path(root).expanduser()
    if "://" in base and not place.is_absolute():
        return _check_url(f"{base.rstrip('/')}/{place}")
    return str(Path(base, place).absolute())


def _check_url(url: str) -> str:
    from fsspec.registry import get_filesystem_class, known_implementations, registry

    protocol, _, path = url.partition("://")
    if protocol not in known_implementations and protocol not in registry:
        raise SpecError(
            f"default_root_dir={url!r}: unknown file system {protocol!r}.",
            "Use a path or a URL such as --trainer.default_root_dir=s3://bucket/experiments",
        )
    try:
        if protocol not in _S3_PROTOCOLS:  # whose package is always there, and slow to import
            get_filesystem_class(protocol)
    except ImportError as error:
        what = f"default_root_dir={url!r} needs a package that is not installed: {error}."
        raise SpecError(what, f"Install it: pip install 'fsspec[{protocol}]'") from error
    if not path.strip("/") and protocol != "memory":
        raise SpecError(
            f"default_root_dir={url!r} has no bucket.",
            f"Add it: --trainer.default_root_dir={protocol}://bucket/experiments",
        )
    return url.rstrip("/")


def open_path(place: str | Path, *, read_seconds: float = 10, tries: int = 3) -> Path:
    """Make a path or a URL an object with the methods of a path.

    Args:
        place: The path or the URL to open.
        read_seconds: How long to wait for an answer of an S3 server.
        tries: How often to send a request to an S3 server before it fails.

    Returns:
        A ``Path`` or, for a URL, a ``UPath``.

    Raises:
        SpecError: If the URL has a segment such as ``..``, which is a name to an object store.
        StorageError: If a package that the file system needs is not installed.
    """
    if "://" not in str(place):
        return Path(place)
    if {".", ".."} & set(str(place).split("/")):
        raise SpecError(f"{str(place)!r}: a URL cannot have '.' or '..'.", "Write it without them.")
    from upath import UPath

    protocol = str(place).partition("://")[0]
    try:
        path = UPath(str(place), **_settings(protocol, read_seconds, tries))
        if protocol in _S3_PROTOCOLS:
            path.fs.retries = min(tries, 2)  # s3fs retries what its client has retried
    except (ImportError, ValueError) as error:
        raise StorageError(
            f"cannot open {place}: {error}.",
            f"Install what it needs: pip install 'fsspec[{protocol}]'",
        ) from error
    return cast("Path", path)


def _settings(protocol: str, read_seconds: float, tries: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"use_listings_cache": False}
    if protocol in _S3_PROTOCOLS:
        from fsspec.config import conf  # FSSPEC_S3_* variables and ~/.config/fsspec

        settings["config_kwargs"] = {
            "connect_timeout": min(5, read_seconds),
            "read_timeout": read_seconds,
            "retries": {"total_max_attempts": tries, "mode": "standard"},
            "max_pool_connections": 32,  # for files, and parts of a checkpoint
            "user_agent": "getiaction-launch",  # otherwise put together anew for each request
            **conf.get(protocol, {}).get("config_kwargs", {}),
        }
    return settings


def use_options(url: str, options: Mapping[str, Any]) -> None:
    """Set fsspec's options for a file system, in this process and those that it starts.

    They are set in fsspec's own environment variable, ``FSSPEC_<PROTOCOL>``, so that jobs get them
    with the environment and no file contains them.

    Args:
        url: A URL of the file system; a path has no options.
        options: Keyword arguments for the class of the file system.
    """
    protocol, separator, _ = url.partition("://")
    if not options or not separator:
        return
    os.environ.setdefault(f"FSSPEC_{protocol.upper()}", dumps(dict(options)))
    if "fsspec" in sys.modules:
        from fsspec.config import conf

        conf.setdefault(protocol, {}).update(options)


def is_remote(path: Path) -> bool:
    """Whether ``path`` is a URL."""
    return not isinstance(path, Path)


def file_system(path: Path) -> tuple[Any, str]:
    """Return the fsspec file system of a URL, and the path in it."""
    remote: Any = path
    opened = remote.fs
    if getattr(opened, "_pid", None) not in (None, os.getpid()):
        # This process was forked, and clients refuse to share connections with their parent.
        remote._fs_cached = type(opened)(*opened.storage_args, **opened.storage_options)  # noqa: SLF001
        if hasattr(opened, "retries"):
            remote.fs.retries = opened.retries
    return remote.fs, remote.path


@contextlib.contextmanager
def reaching(path: Path) -> Iterator[None]:
    """Turn errors of a remote file system into StorageErrors, except for missing files.

    A bucket that does not exist is an error: nothing can be said about the files in it.

    Args:
        path: The path or URL that is used in this context; errors name it.

    Raises:
        StorageError: If the file system fails.
    """
    try:
        if is_remote(path):
            file_system(path)  # makes the path's own methods work after a fork
        yield
    except StorageError:
        raise
    except Exception as error:
        if not is_remote(path) or not is_failure(error):
            raise
        words = describe(in_words(error, *file_system(path)))
        raise StorageError(f"{path}: {words}.", "See docs/storage.md") from error


def why(error: OSError) -> str:
    """Return what a disk or remote storage refused, and in which file: ``/a/b: Disk full``."""
    if not error.strerror:
        return describe(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def modified_at(path: Path) -> float:
    """Return when a file was last written: seconds since the epoch, by its file system's clock."""
    if not is_remote(path):
        return path.stat().st_mtime
    with reaching(path):
        fs, key = file_system(path)
        return float(fs.modified(key).timestamp())


def owner_of(directory: Path) -> int:
    """Return the user id of a directory's owner; of a URL, which has none, that of this process."""
    return os.getuid() if is_remote(directory) else directory.stat().st_uid


def children(directory: Path) -> list[Path]:
    """List a directory; return nothing if it does not exist.

    On remote storage, names that no file can have are left out.

    Raises:
        StorageError: If remote storage does not answer.
    """
    try:
        if not is_remote(directory):
            return list(directory.iterdir())
        with reaching(directory):
            # Not UPath's iterdir(): it takes a refusal or a failure for a missing directory.
            found = list_objects(*file_system(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = dict.fromkeys(str(entry["name"]).rpartition("/")[2] for entry in found)
    return [directory / name for name in names if not why_refused(name)]


def kind_of(path: Path) -> str | None:
    """Return ``file`` or ``directory``; None if nothing exists there.

    ``is_file()`` and ``is_dir()`` of a URL take a refusal or a failure for a missing file.

    Raises:
        StorageError: If remote storage does not answer.
    """
    if not is_remote(path):
        return "directory" if path.is_dir() else "file" if path.exists() else None
    with reaching(path):
        try:
            fs, key = file_system(path)
            return str(fs.info(key)["type"])
        except FileNotFoundError as error:
            if is_failure(error):
                raise
            return None


def remove(path: Path) -> None:
    """Remove a file, a link, or a directory and everything in it, if it exists."""
    if is_remote(path):
        with reaching(path), contextlib.suppress(FileNotFoundError):
            remove_objects(*file_system(path))
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(
    path: Path, content: dict[str, object], *, durable: bool = True, is_private: bool = False
) -> None:
    """Replace a JSON file atomically: a reader sees the old content or the new, never a part.

    Args:
        path: Path or URL of the file.
        content: What the file shall contain.
        durable: Whether it must survive a power failure, which takes a wait for the disk.
        is_private: Whether only this user may read it; object storage has rules of its own.

    Raises:
        OSError: If the disk refuses the write.
        StorageError: If the write to remote storage fails.
    """
    if is_remote(path):
        with reaching(path):
            fs, key = file_system(path)
            fs.pipe_file(key, f"{dumps(content, indent=2)}\n".encode())  # one PUT
        return
    # The temporary file is next to its target: a rename across file systems is a copy.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    mode = 0o600 if is_private else 0o666
    try:
        temporary.unlink(missing_ok=True)
        # O_EXCL: where others write, too, a link of that name could lead to any file of this user.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{dumps(content, indent=2)}\n")
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # Python does not name the file if a write fails
        raise
    finally:
        with contextlib.suppress(OSError):  # the first error says more
            temporary.unlink(missing_ok=True)


def last_line(path: Path) -> str | None:
    """Return the last line of a log that is not blank, or ""; None if there is no log to read."""
    try:
        lines = read_tail(path).decode(errors="replace").split("\n")
    except (OSError, RecordError):
        return None
    return next((line for line in reversed(lines) if line.strip()), "")


def read_json(path: Path) -> dict[str, object] | None:
    """Read what :func:`write_json` wrote; None if the file does not exist.

    Raises:
        RecordError: If it is not a mapping in JSON, not an ordinary file, too large, or unreadable.
        StorageError: If the read from remote storage fails.
    """
    try:
        content = read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return parse_json(content, str(path))


def read_bytes(path: Path) -> bytes:
    """Read a small file in one request, so that it cannot be replaced in between.

    Raises:
        FileNotFoundError: If the file does not exist.
        RecordError: If it is not an ordinary file, cannot be read, or is too large.
        StorageError: If the read from remote storage fails.
    """
    if not is_remote(path):
        return read_limited(path)
    fs, key = file_system(path)
    with reaching(path):
        try:
            return read_object(fs, key)
        except Exception as error:
            # While a file is being replaced, some servers mix the old one with the new one.
            if "Checksum" not in type(error).__name__:
                raise
        time.sleep(0.5)
        return read_object(fs, key)
