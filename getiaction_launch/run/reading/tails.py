"""What was uploaded last of an attempt's logs, so that a follower need not look at each of them.

On remote storage, a log is a number of segments (:mod:`getiaction_launch.storage.segment`), and an
attempt may have hundreds of logs on many machines. So a mirror that has uploaded something of them
replaces one small object of its own below ``launch/tails/attempt_N/``. It says how many segments
each log has, and repeats the newest ones if they are short. A follower lists these objects, one for
each node's process, and reads those that have changed.
"""

import re
import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import write_json

MOST_BYTES = 64 << 10
"""How long segments may be together to be repeated."""
_LOG = re.compile(r"launch/logs/attempt_(\d{1,9})/([^/]+\.log)")


@dataclass(frozen=True)
class Segment:
    """A segment of a log.

    Attributes:
        number: Its number, from 0.
        text: Its bytes, each as the character of that code (Latin-1).
    """

    number: int
    text: str


@dataclass(frozen=True)
class Tail:
    """``launch/tails/attempt_N/ID.json``: the logs of one node. Written by its mirror.

    Attributes:
        counts: How many segments of each log are on storage, by the log's name.
        newest: The last segment of some logs, by their names.
    """

    counts: dict[str, int] = field(default_factory=dict)
    newest: dict[str, Segment] = field(default_factory=dict)


def tails_of(log_directory: Path) -> Path:
    """Return the directory of the tails, for that of an attempt's logs."""
    return log_directory.parents[1] / "tails" / log_directory.name


class TailWriter:
    """Writes the tails of what one mirror uploads.

    Args:
        run: The run to upload; its directory is a URL.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._name = run, f"{secrets.token_hex(6)}.json"
        self._new: dict[int, dict[str, tuple[int, bytes]]] = defaultdict(dict)

    def note(self, path: str, number: int, content: bytes) -> None:
        """Note that a segment was uploaded.

        Args:
            path: Path of the file, relative to the run's directory.
            number: Number of the segment.
            content: What the segment holds.
        """
        if match := _LOG.fullmatch(path):
            self._new[int(match[1])][match[2]] = number, content

    def write(self, counts: Mapping[str, int]) -> None:
        """Write what was noted since the last time.

        Args:
            counts: How many segments each file has, by its path relative to the run's directory.

        Raises:
            StorageError: If storage refuses the write.
        """
        for attempt, new in list(self._new.items()):
            directory = self._run.log_directory(attempt)
            place = f"launch/logs/{directory.name}/"
            known = {p.removeprefix(place): n for p, n in counts.items() if p.startswith(place)}
            is_short = sum(len(content) for _, content in new.values()) <= MOST_BYTES
            newest = {
                name: Segment(number, content.decode("latin-1"))
                for name, (number, content) in new.items()
            }
            tail = Tail(known, newest if is_short else {})
            write_json(tails_of(directory) / self._name, asdict(tail))
            del self._new[attempt]
