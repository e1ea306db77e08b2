"""Files that exactly one of several concurrent callers creates, even if the store overwrites.

Most stores can refuse to write an object that exists already. For the others, each caller writes a
ticket of its own next to the file, waits, and lists the tickets: the oldest by the server's clock
wins, and its owner alone writes the file.

It would be shorter to have all callers write the file itself, wait and read it back, but that is
not safe: a write that is retried or late can land after another caller has read its own token, and
then both win. Besides, some servers damage an object that is written twice at the same time (rclone
can keep the content of one write with the checksum of the other).
"""

import contextlib
import math
import os
import time
from pathlib import Path
from typing import Any

from getiaction_launch.storage.paths import file_system, reaching, read_bytes

SETTLE_SECONDS = 2.0
"""How long to wait for the tickets of others; stores count the time of a write in seconds."""
_HTTP_CONFLICT = {"409", "412", "PreconditionFailed", "ConditionalRequestConflict"}


def create(path: Path) -> bool:
    """Create a file on storage, unless it exists; at most one concurrent caller succeeds.

    Args:
        path: URL of the file; it holds a random token afterwards.

    Returns:
        Whether this call created it.

    Raises:
        StorageError: If the file system cannot be reached.
    """
    token = os.urandom(16).hex()
    with reaching(path):
        if not creates_exclusively(path.parent):
            return _draw_ticket(path, token)
        fs, key = file_system(path)
        _put_new(fs, key, token)
        # Do not trust the answer: if the first one was lost, the retry says "exists".
        return read_bytes(path) == token.encode()


def _put_new(fs: Any, key: str, content: str) -> bool:  # noqa: ANN401 - fsspec has no types
    try:
        fs.pipe_file(key, content.encode(), mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # Judged by its code: some servers send no message.
        response = getattr(error.__cause__, "response", {}) or {}
        codes = {
            str(response.get("Error", {}).get("Code")),
            str(response.get("ResponseMetadata", {}).get("HTTPStatusCode")),
        }
        if not codes & _HTTP_CONFLICT:
            raise
        return False
    return True


_exclusive: dict[str, bool] = {}


def creates_exclusively(directory: Path) -> bool:
    """Whether the store refuses to create a file twice; some S3 servers overwrite it.

    The first call for a bucket finds out with a temporary file.
    """
    fs, key = file_system(directory)
    store = f"{type(fs).__name__} {fs.storage_options} {key.strip('/').partition('/')[0]}"
    if store not in _exclusive:
        probe = f"{key}/.getiaction-launch-{os.urandom(16).hex()}"
        _put_new(fs, probe, "1")
        _exclusive[store] = not _put_new(fs, probe, "2")
        fs.rm_file(probe)
    return _exclusive[store]


def _draw_ticket(path: Path, token: str) -> bool:
    fs, key = file_system(path)
    if fs.exists(key):
        return False
    ticket = f"{key}.tickets/{token}"
    fs.pipe_file(ticket, b"")
    try:
        time.sleep(SETTLE_SECONDS)
        tickets = fs.ls(f"{key}.tickets", detail=True)
        oldest = min(tickets, key=lambda entry: (_modified_at(fs, entry), entry["name"]))
        # The caller that won before this ticket was written has removed its older one.
        if oldest["name"].rpartition("/")[2] != token or fs.exists(key):
            return False
        fs.pipe_file(key, token.encode())
        return True
    finally:
        # Otherwise nobody could create the file again once it is removed.
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(ticket)


def _modified_at(fs: Any, entry: dict[str, Any]) -> float:  # noqa: ANN401 - as above
    try:
        at = entry.get("LastModified") or entry.get("created") or fs.modified(entry["name"])
    except FileNotFoundError:  # removed since it was listed
        return math.inf
    return float(at.timestamp())
