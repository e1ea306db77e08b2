"""Bounds the memory that uploads take: what is being sent is held until storage has accepted it."""

import contextlib
import threading
from collections.abc import Iterator

SMALL_BYTES = 1 << 20
"""Size up to which a body is not counted, so that no log waits for a checkpoint."""
MIN_BODIES = 8
"""How many bodies there is room for, however large they are."""


class Room:
    """How many bytes may be under way at the same time, whichever threads send them.

    Args:
        limit_bytes: How many bytes there is room for. A body of more than an eighth of it counts as
            an eighth, so that eight of them are sent at the same time.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes, self._taken_bytes = limit_bytes, 0
        self._changed = threading.Condition()

    def take(self, size_bytes: int) -> None:
        """Wait until there is room for a body, and take it.

        Args:
            size_bytes: Size of the body in bytes.
        """
        size_bytes = self._counted(size_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._taken_bytes + size_bytes <= self._limit_bytes)
            self._taken_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Give the room of a body back, once nothing holds it any more.

        Args:
            size_bytes: Size of the body in bytes, as it was taken.
        """
        with self._changed:
            self._taken_bytes -= self._counted(size_bytes)
            self._changed.notify_all()

    @contextlib.contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Have room for a body while the context lasts.

        Args:
            size_bytes: Size of the body in bytes.
        """
        self.take(size_bytes)
        try:
            yield
        finally:
            self.give_back(size_bytes)

    def _counted(self, size_bytes: int) -> int:
        if size_bytes <= SMALL_BYTES:
            return 0
        return min(size_bytes, self._limit_bytes // MIN_BODIES)
