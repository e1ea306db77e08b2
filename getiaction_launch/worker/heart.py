"""Notes what this worker does, where its node reads it, and lets the node see its stack.

It imports neither torch nor Lightning: a worker that cannot get further than that must be seen.
"""

import contextlib
import ctypes
import faulthandler
import os
import sys
import time
from collections.abc import Iterator

from getiaction_launch.run.beats.memory import BEAT_VARIABLE, BeatMemory, Pause
from getiaction_launch.run.beats.records import PHASES, Phase
from getiaction_launch.run.beats.stacks import DUMP_SIGNAL

_PR_SET_PTRACER = 0x59616D61  # prctl(2)
FIRST_STEPS = 10
"""How many steps of a fit count as its first ones."""
_INDEX = {phase: index for index, phase in enumerate(PHASES)}


class Heart:
    """Keeps time of the phases of this worker.

    Args:
        memory: Where its node reads them; None if no node does.
    """

    def __init__(self, memory: BeatMemory | None) -> None:
        self._memory = memory
        self._count = self._step = self._phase = self._steady_at = 0
        self._pause = Pause.UNKNOWN
        self._since, self._step_at = time.monotonic(), 0.0
        self._totals = [0.0] * len(PHASES)
        self.beat("starting", Pause.UNKNOWN)

    def beat(self, phase: Phase, pause: Pause | None = None) -> None:
        """Note that another phase begins, or that the same one makes progress.

        Args:
            phase: What this worker does from now on.
            pause: How long it may stay there; None: as before.
        """
        now = time.monotonic()
        self._totals[self._phase] += now - self._since
        self._phase, self._since = _INDEX[phase], now
        self._count += 1
        if pause is not None:
            self._pause = pause
        if self._memory:
            self._memory.write(
                *(self._count, self._step, self._phase, self._pause, now, self._step_at),
                self._totals,
            )

    def note_end(self, exit_code: int) -> None:
        """Note that the program has ended: what fails while Python shuts down is not its fault.

        Args:
            exit_code: What the process is about to end with.
        """
        self.beat("finished", Pause.UNKNOWN)
        if self._memory:
            self._memory.note_end(exit_code)

    def begin_fetch(self) -> None:
        """Note that the next batch is being fetched."""
        self.beat("fetching", self._in_step)

    def prepare_fetch(self) -> None:
        """Note that a loader is about to be read for the first time, of a stream at once."""
        self.beat("fetching", Pause.SETUP)

    def begin_steps(self, done: int) -> None:
        """Note how many steps there have been when training begins or resumes.

        Args:
            done: Steps up to here, over all attempts.
        """
        self._step, self._steady_at = done, done + FIRST_STEPS
        self.beat("fetching", Pause.SETUP)

    def in_step(self, phase: Phase) -> None:
        """Note a phase of a step; the first steps may take long, as they compile and warm up."""
        self.beat(phase, self._in_step)

    def end_step(self) -> None:
        """Note the end of a step, after which the user's own hooks may run for long."""
        self._step += 1
        self._step_at = time.monotonic()
        self.beat("optimizing", Pause.LONG)

    @property
    def _in_step(self) -> Pause:
        return Pause.STEP if self._step >= self._steady_at else Pause.SETUP

    @property
    def now(self) -> tuple[Phase, Pause]:
        """The phase, and how long this worker may stay there."""
        return PHASES[self._phase], self._pause


_hearts: list[Heart] = []


def heart() -> Heart:
    """Return the heart of this process."""
    if not _hearts:
        _hearts.append(Heart(None))
    return _hearts[0]


@contextlib.contextmanager
def during(phase: Phase, pause: Pause | None = None) -> Iterator[None]:
    """Be in a phase inside a context, then in the one before.

    Args:
        phase: What this worker does inside the context.
        pause: How long it may stay there; None: as before.
    """
    before = heart().now
    heart().beat(phase, pause)
    try:
        yield
    finally:
        heart().beat(*before)


def start_heart() -> None:
    """Begin to note what this worker does, in the files that its node has passed to it."""
    descriptors = os.environ.pop(BEAT_VARIABLE, None)
    if descriptors is None:
        return
    beats, stacks = map(int, descriptors.split(","))
    _hearts[:] = [Heart(BeatMemory(beats))]
    os.close(beats)
    os.set_inheritable(stacks, False)
    if DUMP_SIGNAL:
        # Works without the interpreter's lock, and where the kernel forbids to look from outside.
        faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True)
    if sys.platform == "linux":
        # Where only ancestors may look into a process, py-spy is a child of the node's process.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, os.getppid(), 0, 0, 0)
