"""The memory that a worker shares with its node's process, and in which it notes what it does.

It is a file without a name, so it lies on no disk, nobody else can open it, and it is gone with its
processes. The worker writes it in place, without a system call; the node reads it now and then.
Times are those of the monotonic clock, which both have in common.
"""

import mmap
import os
import struct
import sys
import tempfile
from dataclasses import dataclass
from enum import IntEnum

from getiaction_launch.run.beats.records import PHASES

BEAT_VARIABLE = "GETIACTION_LAUNCH_BEAT"
"""Environment variable of a worker: the descriptors of its two files, such as ``5,6``."""
_LAYOUT = struct.Struct(f"<qqqqdd{len(PHASES)}d")
_END = struct.Struct("<?q")
_SIZE_BYTES = _LAYOUT.size + _END.size
_READS = 100


class Pause(IntEnum):
    """How long a rank may stay where it is, apart from its phase."""

    UNKNOWN = 0
    """Outside of a fit, a program may do anything for as long as it likes."""
    SETUP = 1
    """A fit has begun, and its first batch has not."""
    STEP = 2
    """Inside a step of training or validation, or between two steps that follow each other."""
    LONG = 3
    """Hooks of the user's own, which may evaluate a policy for an hour, or a save."""


@dataclass(frozen=True)
class Beat:
    """What a worker has noted.

    Attributes:
        count: How often it has noted something.
        step: Training batches so far, over all attempts.
        phase: Index of what it is doing in :data:`~getiaction_launch.run.beats.records.PHASES`.
        pause: How long it may stay there.
        since: When that began, by the monotonic clock.
        step_at: When the last step ended, by the monotonic clock; 0 before the first one.
        totals: Seconds in each phase, up to ``since``.
    """

    count: int = 0
    step: int = 0
    phase: int = 0
    pause: Pause = Pause.UNKNOWN
    since: float = 0.0
    step_at: float = 0.0
    totals: tuple[float, ...] = (0.0,) * len(PHASES)


def create_memory() -> int:
    """Make an empty file without a name, large enough for a beat; returns its descriptor."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("getiaction-launch")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, _SIZE_BYTES)
    return descriptor


class BeatMemory:
    """The mapping of such a file.

    Args:
        descriptor: Descriptor of the file, which can be closed afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _SIZE_BYTES)

    def write(  # noqa: PLR0917 - called several times in each step
        self,
        count: int,
        step: int,
        phase: int,
        pause: int,
        since: float,
        step_at: float,
        totals: list[float],
    ) -> None:
        """Replace what it holds by the values of a :class:`Beat`."""
        _LAYOUT.pack_into(self._memory, 0, count, step, phase, pause, since, step_at, *totals)

    def read(self) -> Beat | None:
        """Read what it holds; None if that cannot be a beat, or it is being written each time."""
        for _ in range(_READS):
            content = self._memory[: _LAYOUT.size]
            if content == self._memory[: _LAYOUT.size]:
                break
        else:
            return None
        count, step, phase, pause, since, step_at, *totals = _LAYOUT.unpack(content)
        if not 0 <= phase < len(PHASES) or pause not in tuple(Pause):
            return None
        return Beat(count, step, phase, Pause(pause), since, step_at, tuple(totals))

    def note_end(self, exit_code: int) -> None:
        """Note that the program has ended, and with which exit code the process is about to end."""
        _END.pack_into(self._memory, _LAYOUT.size, True, exit_code)

    def read_end(self) -> int | None:
        """Return the noted exit code; None while the program runs."""
        has_ended, exit_code = _END.unpack_from(self._memory, _LAYOUT.size)
        return exit_code if has_ended else None
