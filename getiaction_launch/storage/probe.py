"""Checks that runs can be created under a root, before anything waits in a queue."""

import os
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from getiaction_launch.errors import FAILING, CheckError, LaunchError, UnreachableError
from getiaction_launch.storage.claim import creates_exclusively
from getiaction_launch.storage.failures import describe
from getiaction_launch.storage.paths import file_system, open_path

LIMIT_SECONDS = 8.0


def check_root(root: str) -> None:
    """Check that runs can be created under ``root``, and leave nothing there.

    Under a URL, a file is written, read, created exclusively, listed and removed.

    Args:
        root: An absolute path or a URL.

    Raises:
        CheckError: If runs cannot be created there; the message says why.
        UnreachableError: If storage does not answer within :data:`LIMIT_SECONDS`.
    """
    if "://" in root:
        _check_remote(root)
        return
    place = next(path for path in (Path(root), *Path(root).parents) if path.exists())
    if not place.is_dir() or not is_writable(place):
        what = "is not writable" if place.is_dir() else "is not a directory"
        raise _unwritable(root, f"{place} {what}")


def is_writable(directory: Path) -> bool:
    """Return whether this user may create files in a directory, which root may not everywhere.

    Args:
        directory: A directory that exists.
    """
    if directory.is_relative_to("/proc") or directory.is_relative_to("/sys"):
        return False
    is_read_only = os.statvfs(directory).f_flag & os.ST_RDONLY
    return not is_read_only and os.access(directory, os.W_OK | os.X_OK)


def make_root(root: str) -> None:
    """Create ``root`` if it does not exist, then write and delete a file in it.

    For a URL it does nothing: buckets are never created, and directories need not be.

    Args:
        root: An absolute path or a URL.

    Raises:
        CheckError: If the directory cannot be created or written; the message says why.
        OSError: If the disk is full or fails.
    """
    if "://" in root:
        return
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"probe")
    except OSError as error:
        if error.errno in FAILING:
            error.filename = root
            raise
        raise _unwritable(root, str(error.strerror)) from error


def _unwritable(root: str, reason: str) -> CheckError:
    return CheckError(
        f"default_root_dir={root!r} cannot be written: {reason}.",
        "Choose a directory that you can write to: --trainer.default_root_dir=PATH",
    )


def _check_remote(root: str) -> None:
    path = open_path(root, read_seconds=5, tries=1)
    errors: list[Exception | None] = []

    def probe() -> None:
        try:
            _probe(path)
        except Exception as error:  # noqa: BLE001 - explained below, in the caller's thread
            errors.append(error)
        else:
            errors.append(None)

    # In a thread that can be abandoned: a request to a silent server cannot be cancelled.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS)
    error = errors[0] if errors else TimeoutError(f"no answer in {LIMIT_SECONDS:.0f} s")
    if error is not None:
        raise _explain(root, path, error) from error


def _probe(path: Path) -> None:
    fs, key = file_system(path)
    nonce = uuid.uuid4().hex
    probe = f"{key.rstrip('/')}/.getiaction-launch-{nonce}"
    fs.pipe_file(probe, nonce.encode())
    try:
        if fs.cat_file(probe) != nonce.encode():
            raise OSError("a file that was written reads differently")
        creates_exclusively(path)
        names = [name.rpartition("/")[2] for name in fs.ls(key, detail=False)]
        if probe.rpartition("/")[2] not in names:
            raise OSError("a file that was written is not listed")
    finally:
        fs.rm_file(probe)


def _explain(root: str, path: Path, error: Exception) -> LaunchError:
    """Say what was wrong with the user's own root, and how to fix it."""
    fs, _ = file_system(path)
    words = f"default_root_dir={root!r}: {describe(error)}; {_server_and_key(fs)}."
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        bucket = path.parts[0].strip("/")
        return CheckError(
            words, f"Correct the bucket's name, or create it: aws s3 mb s3://{bucket}"
        )
    if "RequestTimeTooSkewed" in describe(error):
        return CheckError(
            words, "This machine's clock is wrong, and S3 refuses its requests: timedatectl"
        )
    if isinstance(error, PermissionError):
        return CheckError(words, "Use other credentials: export AWS_PROFILE=... (or AWS_ACCESS_*)")
    if "Credential" in name or "Profile" in name:
        fix = "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...   or   AWS_PROFILE=..."
        return CheckError(words, fix)
    is_timeout = isinstance(error, TimeoutError) or "Timeout" in name or "Connect" in name
    if is_timeout or "Endpoint" in name:
        return UnreachableError(words, "Check the server's address: export AWS_ENDPOINT_URL=...")
    return CheckError(words, "Choose another root: --trainer.default_root_dir=s3://bucket/prefix")


def _server_and_key(fs: Any) -> str:  # noqa: ANN401 - fsspec has no types
    """Return which server was used and which key; only the start of the key is shown."""
    env = os.environ
    endpoint = (
        getattr(fs, "endpoint_url", None)
        or (getattr(fs, "client_kwargs", None) or {}).get("endpoint_url")
        or env.get("AWS_ENDPOINT_URL_S3", env.get("AWS_ENDPOINT_URL"))
    )
    key = getattr(fs, "key", None) or env.get("AWS_ACCESS_KEY_ID", "")
    profile = env.get("AWS_PROFILE")
    who = f"key {key[:4]}..." if key else f"profile {profile}" if profile else "the default key"
    return f"endpoint {endpoint or 'of the provider'}, {who}"
