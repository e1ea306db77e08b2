"""The end of a log that grows: the lines that were appended since the last look."""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from getiaction_launch.storage.rotation import end_of, read_from
from getiaction_launch.storage.times import length_before

PIECE_BYTES = 1 << 20
LINE_END = re.compile(rb"\r*\n\r*|\r+")


def start_of_last(content: bytes, lines: int) -> int | None:
    """Return where the last lines start in a text; None if it has fewer of them.

    Args:
        content: The end of a log.
        lines: How many lines are wanted.
    """
    starts = [end.end() for end in LINE_END.finditer(content) if end.end() < len(content)]
    if lines == 0:
        return len(content)
    return starts[-lines] if len(starts) >= lines else None


class LocalTails:
    """Reads what was appended to the logs of a run in a directory.

    Args:
        files: Paths of the logs, by what people call them.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._logs = {name: Tail(path) for name, path in files.items()}

    def begin(self, last: int | None, since: float | None, *, is_over: bool) -> None:
        """Leave out what is before the last lines, or before a time.

        Args:
            last: How many lines of each log to leave; None for all.
            since: Time from which on lines are wanted; None for all.
            is_over: Ignored: files are read to their end.
        """
        del is_over
        if last is not None or since is not None:
            for log in self._logs.values():
                log.skip(last, since)

    def look(self, *, is_last: bool) -> bool:
        """Return False: what is new is found when it is read."""
        del is_last
        return False

    def read(self, *, is_over: bool) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the name and the new lines of each log.

        Args:
            is_over: Whether nothing more will follow, so that unfinished lines are yielded, too.
        """
        for name, log in self._logs.items():
            yield name, log.read(is_over=is_over)


class Tail:
    """Reads what was appended to a file since the last read."""

    def __init__(self, path: Path) -> None:
        self._path, self._position, self._rest, self._kept = path, 0, b"", b""

    def skip(self, last: int | None, since: float | None) -> None:
        """Leave out what is before the last lines, or before a time; read no more than them.

        Args:
            last: How many lines to leave; None for all.
            since: Time from which on lines are wanted; None for all.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            first = 0 if since is None else self._first_since(since)
            self._position = first
            if last is None:
                return
            ending, window_bytes = b"", PIECE_BYTES
            self._position = position = end_of(self._path)
            while (start := start_of_last(ending, last)) is None and position > first:
                position = self._position = max(first, self._position - window_bytes)
                ending = b"".join(self._pieces())
                window_bytes *= 2
            self._kept = ending[start or 0 :]

    def _first_since(self, since: float) -> int:
        """Return where the first line begins that was not complete at that time."""
        if self._path.stat().st_mtime < since:
            return end_of(self._path)
        length = length_before(self._path, since)
        if not length:
            return 0
        start = max(0, length - PIECE_BYTES)
        before, _ = read_from(self._path, start, length - start)
        return start + max((end.end() for end in LINE_END.finditer(before)), default=0)

    def read(self, *, is_over: bool) -> Iterator[str]:
        """Yield the new lines; the last one is kept for later if it is unfinished.

        Args:
            is_over: Whether nothing more will follow, so that an unfinished line is yielded, too.
        """
        kept, self._kept = self._kept, b""
        for piece in itertools.chain([kept], self._pieces()):
            *lines, self._rest = LINE_END.split(self._rest + piece)
            if len(self._rest) > PIECE_BYTES:  # whatever that is, it is not a line
                lines, self._rest = [*lines, self._rest], b""
            for line in lines:
                yield line.decode(errors="replace")
        if self._rest and is_over:
            yield self._rest.decode(errors="replace")

    def _pieces(self) -> Iterator[bytes]:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            while True:
                piece, self._position = read_from(self._path, self._position, PIECE_BYTES)
                if not piece:
                    return
                yield piece
