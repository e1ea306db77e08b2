"""The logs of a run on remote storage, as they come: in few requests, however many ranks there are.

A log is a number of segments, which never change. How many there are of each log is read from one
listing of all logs at the beginning and at the end. In between, the listing of the tails
(:mod:`getiaction_launch.run.reading.tails`) says which nodes have uploaded something. Attempts of
earlier versions have no tails; there, all logs are listed each time.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from getiaction_launch.errors import RecordError
from getiaction_launch.launch.logs.tail import Tail, start_of_last
from getiaction_launch.run.reading import tails
from getiaction_launch.run.records import load
from getiaction_launch.storage.at_once import ROUND_TRIPS, for_each
from getiaction_launch.storage.entries import DirectoryEntry, read_entries
from getiaction_launch.storage.paths import read_bytes
from getiaction_launch.storage.segment import name_and_number, segment_name


class RemoteTails:
    """Reads what was appended to an attempt's logs.

    Args:
        files: URLs of the logs in one directory, by what people call them.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._directory = next(iter(files.values())).parent
        self._tails = tails.tails_of(self._directory)
        self._logs = {path.name: (name, RemoteTail(path)) for name, path in files.items()}
        self._seen: dict[str, object] = {}

    def begin(self, last: int | None, since: float | None, *, is_over: bool) -> None:
        """Find out what there is, and leave out what is before the last lines, or before a time.

        Args:
            last: How many lines of each log to leave; None for all.
            since: Time from which on lines are wanted; None for all.
            is_over: Whether nothing more will follow.
        """
        if not is_over:  # first: what is uploaded from now on is news
            self._seen = {entry.name: entry.version for entry in read_entries(self._tails)}
        entries = self._count()
        if last is not None or since is not None:
            for _, log in self._logs.values():
                log.skip_listed(entries, last, since)

    def look(self, *, is_last: bool) -> bool:
        """Find out what is new; return whether anything is.

        Args:
            is_last: Whether nothing more will follow, so that each log itself is looked at.
        """
        found = [] if is_last else read_entries(self._tails)
        if not found:
            self._count()
        changed = [
            entry
            for entry in found
            if entry.version is None or self._seen.get(entry.name) != entry.version
        ]
        paths = [self._tails / entry.name for entry in changed]
        for entry, tail in zip(changed, for_each(_read, paths, self._tails), strict=True):
            self._seen[entry.name] = entry.version
            self._take(tail)
        return any(log.is_behind for _, log in self._logs.values())

    def _count(self) -> list[DirectoryEntry]:
        entries = read_entries(self._directory)
        counts: dict[str, int] = {}
        for name, number in (name_and_number(entry.name) for entry in entries):
            counts[name] = max(counts.get(name, 0), number + 1)
        self._take(tails.Tail(counts))
        return entries

    def _take(self, tail: tails.Tail) -> None:
        for name, count in tail.counts.items():
            if name in self._logs:
                log = self._logs[name][1]
                log.count = max(log.count, count)
                if segment := tail.newest.get(name):
                    log.ahead[segment.number] = segment.text.encode("latin-1", "replace")

    def read(self, *, is_over: bool) -> Iterator[tuple[str, Iterator[str]]]:
        """Yield the name and the new lines of each log that has some.

        Args:
            is_over: Whether nothing more will follow, so that unfinished lines are yielded, too.
        """
        logs = [(name, log) for name, log in self._logs.values() if is_over or log.is_behind]
        for start in range(0, len(logs), ROUND_TRIPS):
            together = logs[start : start + ROUND_TRIPS]
            for_each(RemoteTail.fetch, [log for _, log in together], self._directory)
            for name, log in together:
                yield name, log.read(is_over=is_over)


def _read(path: Path) -> tails.Tail:
    try:
        return load(tails.Tail, path) or tails.Tail()
    except RecordError:  # of a stranger: the last look finds what it could not say
        return tails.Tail()


class RemoteTail(Tail):
    """Reads a log that lies on remote storage, in segments that never change.

    Attributes:
        count: How many segments there are.
        ahead: Segments that were read already, by their numbers.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.count = 0
        self.ahead: dict[int, bytes] = {}

    @property
    def is_behind(self) -> bool:
        """Whether there are segments that were not read."""
        return self._position < self.count

    def skip_listed(
        self, entries: list[DirectoryEntry], last: int | None, since: float | None
    ) -> None:
        """Leave out what is before the last lines, or before a time; read no segments but theirs.

        Args:
            entries: What is in the directory of the log.
            last: How many lines to leave; None for all.
            since: Time from which on lines are wanted; None for all.
        """
        found = [(name_and_number(entry.name), entry.written_at) for entry in entries]
        times = {number: at for (name, number), at in found if name == self._path.name}
        # A segment is written when its lines are there already.
        numbers = [n for n, at in times.items() if at is None or since is None or at >= since]
        first = self._position = min(numbers, default=self.count)
        if last is None:
            return
        self._position, ending = self.count, b""
        while (start := start_of_last(ending, last)) is None and self._position > first:
            self._position -= 1
            ending = self._read(self._position) + ending
        self._kept = ending[start or 0 :]
        self._position = self.count

    def fetch(self) -> None:
        """Read the next segment ahead, so that those of several logs are read at the same time."""
        if self.is_behind and self._position not in self.ahead:
            try:
                self.ahead[self._position] = self._read(self._position)
            except FileNotFoundError:  # a tail of a stranger names it
                self.count = self._position

    def _read(self, number: int) -> bytes:
        return read_bytes(self._path.with_name(segment_name(self._path.name, number)))

    def _pieces(self) -> Iterator[bytes]:
        while self.is_behind:
            self.fetch()
            if self.is_behind:
                yield self.ahead.pop(self._position)
                self._position += 1
        self.ahead.clear()
