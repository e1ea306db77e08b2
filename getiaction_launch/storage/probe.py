"""Whether runs could be made under a root, found out before anything waits in a queue."""

import os
import tempfile
import threading
import uuid
from pathlib import Path
from typing import Any

from getiaction_launch.errors import CheckError, LaunchError, UnreachableError
from getiaction_launch.storage.claim import creates_exclusively
from getiaction_launch.storage.paths import (
    describe,
    file_system,
    open_path,
)

LIMIT_SECONDS = 8.0
_SILENT = "it did not answer"


def check_root(root: str) -> None:
    """Say whether runs could be made under ``root``, and leave nothing there.

    Under a URL, a file is written, read, created exclusively, listed and removed.

    Raises:
        CheckError: If not, with the path or URL and why.
        UnreachableError: If the storage does not answer in :data:`LIMIT_SECONDS`.
    """
    if "://" in root:
        _check_remote(root)
        return
    place = next(path for path in (Path(root), *Path(root).parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "is not yours to write" if place.is_dir() else "is no directory"
        raise _unwritable(root, f"{place} {what}")


def make_root(root: str) -> None:
    """Create ``root`` if it is not there, then write and delete a file in it.

    Of a URL there is nothing to make, and a bucket that is not there is not made.

    Raises:
        CheckError: If that fails, with the path and the system's reason.
    """
    if "://" in root:
        return
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"probe")
    except OSError as error:
        raise _unwritable(root, str(error.strerror)) from error


def _unwritable(root: str, reason: str) -> CheckError:
    return CheckError(
        f"default_root_dir={root!r} cannot be written: {reason}.",
        "Name a directory that you may write to: --trainer.default_root_dir=PATH",
    )


def _check_remote(root: str) -> None:
    path = open_path(root, read_seconds=5, tries=1)
    errors: list[Exception | None] = []

    def probe() -> None:
        try:
            _probe(path)
        except Exception as error:  # noqa: BLE001 - judged below, in the thread of the caller
            errors.append(error)
        else:
            errors.append(None)

    # A thread that can be left behind: what waits for a server that is silent cannot be stopped.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(LIMIT_SECONDS)
    error = errors[0] if errors else TimeoutError(f"{_SILENT} in {LIMIT_SECONDS:.0f} s")
    if error is not None:
        raise _judge(root, path, error) from error


def _probe(path: Path) -> None:
    fs, key = file_system(path)
    nonce = uuid.uuid4().hex
    probe = f"{key.rstrip('/')}/.getiaction-launch-{nonce}"
    fs.pipe_file(probe, nonce.encode())
    try:
        if fs.cat_file(probe) != nonce.encode():
            raise OSError("what was written is not what is read")
        creates_exclusively(path)
        names = [name.rpartition("/")[2] for name in fs.ls(key, detail=False)]
        if probe.rpartition("/")[2] not in names:
            raise OSError("what was written is not listed")
    finally:
        fs.rm_file(probe)


def _judge(root: str, path: Path, error: Exception) -> LaunchError:
    """Say in the user's words what went wrong, and how it is mended."""
    fs, _ = file_system(path)
    words = f"default_root_dir={root!r}: {describe(error)}; {_whose(fs)}."
    name = type(error).__name__
    if isinstance(error, FileNotFoundError):
        bucket = path.parts[0].strip("/")
        return CheckError(words, f"Is it {bucket!r}? It is not made for you: aws s3 mb s3://NAME")
    if "RequestTimeTooSkewed" in describe(error):
        return CheckError(
            words, "This machine's clock is wrong, and S3 signs the time: timedatectl"
        )
    if isinstance(error, PermissionError):
        return CheckError(words, "Use other credentials: export AWS_PROFILE=... (or AWS_ACCESS_*)")
    if "Credential" in name or "Profile" in name:
        fix = "export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...   or   AWS_PROFILE=..."
        return CheckError(words, fix)
    is_timeout = isinstance(error, TimeoutError) or "Timeout" in name or "Connect" in name
    if is_timeout or "Endpoint" in name:
        return UnreachableError(words, "Is that the right server? export AWS_ENDPOINT_URL=...")
    return CheckError(words, "Name another place: --trainer.default_root_dir=s3://bucket/prefix")


def _whose(fs: Any) -> str:  # noqa: ANN401 - fsspec has no types
    """Which server was asked as whom, with as much of the key as names it."""
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
