"""Where two ranks of a trial are in their epochs, which each knows of the other."""

import contextlib
import mmap
import struct
import time
from collections.abc import Callable, Iterator

_LAST, _BEGUN, _TRAINED, _ENDED, _LENGTH, _MEETINGS, _GONE, _DONE = 0, 1, 3, 5, 7, 9, 11, 13
_BYTES = 8
_MARGIN = 2
"""Batches that a rank may begin while the last one is chosen."""
_LIMIT_SECONDS = 5
_PAUSE_SECONDS = 0.001


class Lockstep:
    """Counts the batches of both ranks in memory that they share, as one is forked from the other.

    A collective would be one more that the ranks might miss. Batches are counted from 1.

    Attributes:
        rank: The rank of this process, 0 or 1.
    """

    def __init__(self) -> None:
        self.rank = 0
        self._memory = mmap.mmap(-1, 14 * _BYTES)
        self._is_alone = False

    def leave(self) -> None:
        """Come to nothing more, for which the other rank would wait."""
        self._write(_GONE + self.rank, 1)

    def meet(self) -> None:
        """Wait for the other rank as in a barrier, where there is no process group yet."""
        meetings = self._read(_MEETINGS + self.rank) + 1
        self._write(_MEETINGS + self.rank, meetings)
        self._wait(lambda: self._read(_MEETINGS + 1 - self.rank) >= meetings)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let rank 0 do something first, once, and rank 1 as soon as that is done."""
        while self.rank and not self._read(_DONE):
            time.sleep(_PAUSE_SECONDS)  # however long it takes: this rank ends with the other one
        try:
            yield
        finally:
            self._write(_DONE, 1)

    def begin_batch(self, batch: int) -> None:
        """Begin a batch of the first epoch, as soon as the other rank does, unless it has ended.

        Args:
            batch: Number of the batch.
        """
        self._write(_BEGUN + self.rank, batch)
        other = 1 - self.rank
        self._wait(lambda: self._read(_BEGUN + other) >= batch or self._read(_ENDED + other) > 0)

    def end_batch(self, batch: int, *, is_last: bool) -> None:
        """End a batch of the first epoch, as soon as the other rank does.

        Args:
            batch: Number of the batch.
            is_last: Whether the epoch ends with it, as far as that is known.
        """
        if is_last:
            self._write(_ENDED + self.rank, batch)
        self._write(_TRAINED + self.rank, batch)
        other = 1 - self.rank
        self._wait(lambda: self._read(_TRAINED + other) >= batch or self._read(_ENDED + other) > 0)

    def end_epoch(self, batches: int) -> None:
        """End the first epoch of a stream, whose end nobody has known before.

        Args:
            batches: How many batches it had.
        """
        self._write(_ENDED + self.rank, batches)
        other = 1 - self.rank
        self._wait(lambda: self._read(_BEGUN + other) > batches or self._read(_ENDED + other) > 0)

    def uneven(self, *, is_still: bool) -> tuple[int, int] | None:
        """Return at least how many batches the first epoch of each rank has; None if as many.

        Args:
            is_still: Whether a rank that has not ended its epoch with the other has more batches.
        """
        ended = [self._read(_ENDED + rank) for rank in (0, 1)]
        seen = [self._read(_BEGUN + rank) for rank in (0, 1)]
        if is_still:
            seen = [self._read(_TRAINED + rank) + 1 for rank in (0, 1)]
        if all(ended):
            return (ended[0], ended[1]) if ended[0] != ended[1] else None
        for rank in (0, 1):
            if 0 < ended[rank] < seen[1 - rank]:
                more = ended[rank] + 1
                return (ended[0], more) if rank == 0 else (more, ended[1])
        return None

    @property
    def lengths(self) -> tuple[int, int]:
        """How many batches an epoch of each rank has; 0 if it is not known."""
        return self._read(_LENGTH), self._read(_LENGTH + 1)

    def note_length(self, batches: int) -> None:
        """Note how many batches an epoch of this rank has, or 0."""
        self._write(_LENGTH + self.rank, batches)

    def choose_last(self, batch: int) -> None:
        """Choose a last batch that no rank has come to yet, unless there is one.

        Args:
            batch: The batch that this rank has just trained.
        """
        if not self._read(_LAST):
            begun = max(batch, self._read(_BEGUN), self._read(_BEGUN + 1))
            self._write(_LAST, begun + _MARGIN)

    def is_last(self, batch: int) -> bool:
        """Return whether both ranks end after this batch, or an earlier one."""
        return 0 < self._read(_LAST) <= batch

    def _wait(self, has_come: Callable[[], bool]) -> None:
        """Wait for the other rank; give up once only, as it may never come."""
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not has_come():
            is_gone = self._read(_GONE + 1 - self.rank) > 0
            if self._is_alone or is_gone or time.monotonic() > deadline:
                self._is_alone = True
                return
            time.sleep(_PAUSE_SECONDS)

    def _read(self, place: int) -> int:
        return int(struct.unpack_from("q", self._memory, place * _BYTES)[0])

    def _write(self, place: int, value: int) -> None:
        struct.pack_into("q", self._memory, place * _BYTES, value)
