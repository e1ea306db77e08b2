"""The time that a trial has, in which it does not count where others take the CPUs."""

import contextlib
import time
from collections.abc import Callable, Iterable
from pathlib import Path

MOST = 3
"""How many times its limit a trial may take where it waits for a CPU."""
_RANKS = 2
"""How many processes wait for each other, so that the waits of each add up."""


class Clock:
    """Counts the time since it was made.

    Args:
        limit_seconds: How long a trial may take; None for any time.
        processes: Function that returns the ids of its processes.
        now: Function that returns the time, in seconds.
        read: Function that returns what the kernel says of the schedule of a process.
    """

    def __init__(
        self,
        limit_seconds: float | None,
        processes: Callable[[], Iterable[int]],
        *,
        now: Callable[[], float] = time.monotonic,
        read: Callable[[int], str] | None = None,
    ) -> None:
        self._limit_seconds = float("inf") if limit_seconds is None else limit_seconds
        self._processes, self._now, self._read = processes, now, read or _read
        self._begun = now()

    def left_seconds(self) -> float:
        """Return how much time is left: 0 or less if it is over.

        Processes are asked only once the limit has passed, as a look at all of them takes a while.
        """
        passed = self._now() - self._begun
        left = self._limit_seconds - passed
        if left > 0:
            return left
        return min(left + self._waited_seconds(), MOST * self._limit_seconds - passed)

    def _waited_seconds(self) -> float:
        waits = []
        for pid in self._processes():
            with contextlib.suppress(OSError, ValueError, IndexError):
                waits.append(int(self._read(pid).split()[1]) / 1e9)
        return sum(sorted(waits)[-_RANKS:])


def _read(pid: int) -> str:
    """Read the times of the main thread: on a CPU, and waiting for one, in nanoseconds.

    https://docs.kernel.org/scheduler/sched-stats.html
    """
    return Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii")
