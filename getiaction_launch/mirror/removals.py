"""What the run's own code has removed, so that the mirror removes it from storage too.

That a file is missing in the staging directory says nothing: tmpreaper(8) deletes old files from
``/tmp``, and so do people. Only what a ``CheckpointIO`` was asked to remove, which is how
Lightning's callbacks remove checkpoints, is written down here, and storage keeps everything else.
"""

import contextlib
import json
import os
from pathlib import Path

from getiaction_launch.storage.strict_json import dumps

JOURNAL = ".removed.jsonl"
"""A line for each file or directory; the worker of rank 0 appends, and the mirror reads."""


def record_removal(directory: Path, path: Path) -> None:
    """Write down that a checkpoint has been removed; call it after that.

    Nothing is written for a path outside the directory, for one that still exists or exists again,
    or if no mirror reads the directory.

    Args:
        directory: The run's directory, as this machine's processes see it.
        path: Absolute path of the file or directory.
    """
    if os.path.lexists(path) or not path.is_relative_to(directory):
        return
    line = f"{dumps(str(path.relative_to(directory)))}\n"
    with contextlib.suppress(OSError):  # storage keeps one more file then
        # Not created here: in a run on a file system there is no mirror.
        descriptor = os.open(directory / JOURNAL, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def read_removals(directory: Path, start: int) -> tuple[list[str], int]:
    """Read what has been removed since an earlier call.

    Args:
        directory: The run's staging directory.
        start: Where the earlier call stopped in the journal, in bytes; 0 for everything.

    Returns:
        The paths, relative to the directory, and where this call stopped.
    """
    try:
        content = (directory / JOURNAL).read_bytes()
    except OSError:
        return [], 0
    start = start if start <= len(content) else 0  # it was deleted, and made again
    end = content.rfind(b"\n") + 1
    paths = []
    for line in content[start:end].splitlines():
        with contextlib.suppress(ValueError):  # a disk that was full
            paths.append(json.loads(line))
    return [path for path in paths if isinstance(path, str)], max(start, end)


def forget_removals(directory: Path) -> None:
    """Start the journal of a new attempt."""
    (directory / JOURNAL).write_bytes(b"")
