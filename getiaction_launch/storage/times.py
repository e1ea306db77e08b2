"""When a log grew: a file beside it, by which a reader finds the lines since some time.

A worker writes into its log without anybody between, and its lines have no times. So the node's
process notes the size of each log now and then: ``rank_0.times`` has a line ``TIME BYTES`` for
``rank_0.log``, with seconds since the epoch and the length of the whole log at that time. On remote
storage, the times of a log's segments say the same.
"""

import contextlib
import re
import time
from collections.abc import Iterable
from pathlib import Path

from getiaction_launch.storage.rotation import end_of
from getiaction_launch.storage.untrusted import read_limited

PERIOD_SECONDS = 10.0
_LINE = re.compile(rb"(\d{1,12}) (\d{1,18})")


class LogTimes:
    """Notes when the logs of a node's workers grow.

    Args:
        paths: The files of the logs, on a disk.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._sizes = dict.fromkeys(paths, -1)
        self._look_at = 0.0

    def note(self) -> None:
        """Note the size of the logs that have grown; cheap enough for a loop."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + PERIOD_SECONDS
        for path, before in self._sizes.items():
            # A disk that fails, or a log that somebody removed, must not end the training.
            with contextlib.suppress(OSError):
                size = path.stat().st_size
                if size != before:
                    with times_of(path).open("ab") as file:
                        file.write(b"%d %d\n" % (time.time(), end_of(path)))
                    self._sizes[path] = size


def times_of(log: Path) -> Path:
    """Return the file with the times of a log."""
    return log.with_suffix(".times")


def length_before(log: Path, since: float) -> int | None:
    """Return how long a log was at some time, in bytes: what it says since then comes behind.

    What is behind may have been written up to :data:`PERIOD_SECONDS` earlier.

    Args:
        log: The log's file, on a disk.
        since: The time, in seconds since the epoch.

    Returns:
        The length; None if there are no times of this log.

    Raises:
        RecordError: If the file with the times is not an ordinary file, or too large.
    """
    try:
        content = read_limited(times_of(log))
    except FileNotFoundError:
        return None
    notes = [(int(line[1]), int(line[2])) for line in _LINE.finditer(content)]
    return max((length for noted_at, length in notes if noted_at <= since), default=0)
