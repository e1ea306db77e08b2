"""Where two ranks of a trial are in their epochs, which each knows of the other."""

import mmap
import struct
import time
from collections.abc import Callable

_LAST, _BEGUN, _ENDED, _LENGTH, _MEETINGS, _GONE = 0, 1, 3, 5, 7, 9
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
        self._memory = mmap.mmap(-1, 11 * _BYTES)
        self._is_alone = False

    def leave(self) -> None:
        """Come to nothing more, for which the other rank would wait."""
        self._write(_GONE + self.rank, 1)

    def meet(self) -> None:
        """Wait for the other rank as in a barrier, where there is no process group yet."""
        meetings = self._read(_MEETINGS + self.rank) + 1
        self._write(_MEETINGS + self.rank, meetings)
        self._wait(lambda: self._read(_MEETINGS + 1 - self.rank) >= meetings)

    def begin(self, batch: int) -> int | None:
        """Begin a batch of the first epoch, as soon as the other rank does.

        Args:
            batch: Number of the batch.

        Returns:
            The number of batches of the other rank, if its epoch has ended before this batch.
        """
        self._write(_BEGUN + self.rank, batch)
        self._wait_for(batch)
        ended = self._read(_ENDED + 1 - self.rank)
        return ended if 0 < ended < batch else None

    def end_epoch(self, batches: int) -> int | None:
        """End the first epoch.

        Args:
            batches: How many batches it had.

        Returns:
            The batch that the other rank has begun, if its epoch has more of them.
        """
        self._write(_ENDED + self.rank, batches)
        self._wait_for(batches + 1)
        begun = self._read(_BEGUN + 1 - self.rank)
        return begun if begun > batches and not self._read(_ENDED + 1 - self.rank) else None

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

    def _wait_for(self, batch: int) -> None:
        """Wait until the other rank begins a batch, or has ended its epoch."""
        other = 1 - self.rank
        self._wait(lambda: self._read(_BEGUN + other) >= batch or self._read(_ENDED + other) > 0)

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
