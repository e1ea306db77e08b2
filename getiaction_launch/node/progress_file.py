"""Progress of a program in any language, which writes a line into a file."""

import re
import sys
import time

from getiaction_launch.errors import RecordError
from getiaction_launch.run.own_progress import OwnProgress
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.untrusted import read_tail

VARIABLE = "GETIACTION_LAUNCH_PROGRESS_FILE"
"""Environment variable of the worker of rank 0, and of all that it starts: path of the file."""
PERIOD_SECONDS = 1.0
_LINE = re.compile(r"(\d{1,15})(?:\s+(\d{1,15}|-))?((?:\s+[^\s=]+=[^\s=]+)*)\s*")


def read_line(line: str) -> tuple[int, int | None, dict[str, float]]:
    """Read ``STEP [TOTAL] [NAME=NUMBER ...]``; a ``-`` for the total says that it is not known.

    Raises:
        ValueError: If it is something else.
    """
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise ValueError(line)
    step, total, rest = found.groups()
    pairs = (word.partition("=") for word in rest.split())
    metrics = {name: float(value) for name, _, value in pairs}
    return int(step), int(total) if total and total != "-" else None, metrics


class ProgressFile:
    """The file of one attempt, which the node of rank 0 reads about once a second.

    Args:
        run: The run as this node's workers write it.
        attempt: Number of the attempt, from 0.
        node_rank: Rank of this node; only that of rank 0 reads the file.
    """

    def __init__(self, run: Run, attempt: int, node_rank: int) -> None:
        self.path = run.log_directory(attempt) / "progress.txt"
        self._run, self._is_read = run, node_rank == 0
        self._read_at, self._line = 0.0, ""
        self._report: OwnProgress | None = None

    def note(self, *, is_last: bool = False) -> None:
        """Report what the file says, if that is new; a line that is not one is quoted once.

        Args:
            is_last: Whether the program has ended, so that nothing else will come.
        """
        now = time.monotonic()
        if not self._is_read or (now < self._read_at and not is_last):
            return
        self._read_at = now + PERIOD_SECONDS
        try:
            text = read_tail(self.path).decode(errors="replace")
        except (OSError, RecordError):  # most programs write none
            return
        whole = text if is_last else text.rpartition("\n")[0]  # the rest is being written
        line = next((line for line in reversed(whole.split("\n")) if line.strip()), "")
        if line in ("", self._line) or self._has_trainer():
            return
        self._line = line
        try:
            step, total, metrics = read_line(line)
        except ValueError:
            said = "progress.txt: expected STEP [TOTAL] [NAME=NUMBER ...], got"
            sys.stderr.write(f"{said} {line[:100]!r}\n")
            return
        self._report = self._report or OwnProgress(self._run, step, now)
        self._report.write(step, total, metrics)

    def _has_trainer(self) -> bool:
        """Whether a Lightning Trainer of this attempt reports, which knows more."""
        try:
            progress = Progress.read(self._run)
        except (OSError, RecordError):
            return False
        return bool(progress and progress.step is not None and not progress.is_own)
