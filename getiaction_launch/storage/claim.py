"""Files that one of any number of concurrent callers creates, also where a store overwrites."""

import os
import time
from pathlib import Path
from typing import Any

from getiaction_launch.storage.paths import file_system, reaching, read_bytes

SETTLE_SECONDS = 2.0
"""How long a ticket waits for those of others; stores tell the time of a file in seconds."""
_HTTP_CONFLICT = {"409", "412", "PreconditionFailed", "ConditionalRequestConflict"}


def create(path: Path) -> bool:
    """Create the file of a URL, if nobody has; of any number of concurrent callers one succeeds.

    Args:
        path: A file that was not there a moment ago.

    Returns:
        Whether this call has.

    Raises:
        StorageError: If the file system cannot be reached.
    """
    nonce = os.urandom(16).hex()
    with reaching(path):
        if not creates_exclusively(path.parent):
            return _draw_ticket(path, nonce)
        fs, key = file_system(path)
        _put_new(fs, key, nonce)
        # Read back: where the answer to the first try was lost, the second says "exists".
        return read_bytes(path) == nonce.encode()


def _put_new(fs: Any, key: str, content: str) -> bool:  # noqa: ANN401 - fsspec has no types
    try:
        fs.pipe_file(key, content.encode(), mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # By its code: not every server's words can be read.
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

    Tried once for each bucket, with a file that is removed again.
    """
    fs, key = file_system(directory)
    store = f"{type(fs).__name__} {fs.storage_options} {key.strip('/').partition('/')[0]}"
    if store not in _exclusive:
        probe = f"{key}/.getiaction-launch-{os.urandom(16).hex()}"
        _put_new(fs, probe, "1")
        _exclusive[store] = not _put_new(fs, probe, "2")
        fs.rm_file(probe)
    return _exclusive[store]


def _draw_ticket(path: Path, nonce: str) -> bool:
    """Create ``path`` where a store overwrites: of all tickets, the server's oldest one wins.

    A ticket that comes after others have settled is the younger one, by the server's own clock.
    """
    fs, key = file_system(path)
    if fs.exists(key):
        return False
    mine = f"{key}.tickets/{nonce}"
    fs.pipe_file(mine, b"")
    time.sleep(SETTLE_SECONDS)
    tickets = fs.ls(f"{key}.tickets", detail=True)
    oldest = min(tickets, key=lambda entry: (_modified_at(fs, entry), entry["name"]))
    if oldest["name"].rpartition("/")[2] != nonce:
        return False
    fs.pipe_file(key, nonce.encode())
    return True


def _modified_at(fs: Any, entry: dict[str, Any]) -> float:  # noqa: ANN401 - as above
    at = entry.get("LastModified") or entry.get("created") or fs.modified(entry["name"])
    return float(at.timestamp())
