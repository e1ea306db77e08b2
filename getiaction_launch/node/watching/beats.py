"""What the workers of this node do, read from the memory that they share with the node's process.

Once a second the node writes it down for everybody who watches, and says for each rank how long it
may stay where it is, by the pace of this attempt.
"""

import contextlib
import os
import socket
import statistics
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from getiaction_launch.node.watching.usage import Usage
from getiaction_launch.plan.plan import Stalls
from getiaction_launch.run.attempt import Attempt
from getiaction_launch.run.beats.memory import (
    BEAT_VARIABLE,
    Beat,
    BeatMemory,
    Pause,
    create_memory,
)
from getiaction_launch.run.beats.records import PHASES, NodeBeats, RankBeat, Stall

PERIOD_SECONDS = 1.0
FLOOR_SECONDS = {Pause.SETUP: 7200.0, Pause.STEP: 600.0, Pause.LONG: 7200.0}
"""Shortest time in which nothing may happen before that counts as a stall."""
MULTIPLES = {Pause.SETUP: 3, Pause.STEP: 20, Pause.LONG: 5}
"""How many times the longest wait so far of the same kind."""
SETUP_AGAIN = 2
"""How many times the longest wait of the first steps: an epoch may begin, or compile, like them."""
LONGEST_LOOK_SECONDS = 5.0
"""What counts of the time between two looks: if all processes were suspended, nothing was late."""
MARK_SECONDS = 1.0
"""Time between two marks, by which recent steps are compared with those of other ranks."""
_PACES, _MARKS, _FEWEST_STEPS = 50, 30, 5


@dataclass
class Pulse:
    """What is known of one rank.

    Attributes:
        memory: What the worker writes into.
        stacks: Descriptor of the file that the worker writes its stacks into.
        pid: Id of the worker's process.
        beat: What it last noted.
        silent_seconds: How long it has noted nothing since, as far as this node was watching.
        longest: The longest time between two notes, for each kind of pause.
        paces: Seconds for each of the last steps.
        marks: What it noted at the ends of some of the last steps.
    """

    memory: BeatMemory
    stacks: int
    pid: int = 0
    beat: Beat = field(default_factory=Beat)
    silent_seconds: float = 0.0
    longest: dict[Pause, float] = field(default_factory=dict)
    paces: deque[float] = field(default_factory=lambda: deque(maxlen=_PACES))
    marks: deque[Beat] = field(default_factory=lambda: deque(maxlen=_MARKS))

    def look(self, passed_seconds: float) -> None:
        """Read what the worker has noted.

        Args:
            passed_seconds: Time since the last look.
        """
        beat, before = self.memory.read(), self.beat
        self.silent_seconds += min(passed_seconds, LONGEST_LOOK_SECONDS)
        if beat is None or beat.count == before.count:
            return
        longest = self.longest.get(before.pause, 0.0)
        self.longest[before.pause] = max(
            longest, min(beat.since - before.since, self.silent_seconds)
        )
        if beat.step > before.step and before.step_at:
            steps = beat.step - before.step
            self.paces.append((beat.step_at - before.step_at) / steps)
        self._mark(beat)
        self.beat, self.silent_seconds = beat, 0.0

    def _mark(self, beat: Beat) -> None:
        if self.marks and beat.step < self.marks[-1].step:
            self.marks.clear()  # another fit of the program
        last = self.marks[-1] if self.marks else Beat()
        if beat.step > last.step and beat.step_at - last.step_at >= MARK_SECONDS:
            self.marks.append(beat)

    @property
    def recent_seconds(self) -> dict[str, float]:
        """Seconds per step in each phase, lately; empty after few steps."""
        first, last = (self.marks[0], self.marks[-1]) if self.marks else (Beat(), Beat())
        if (steps := last.step - first.step) < _FEWEST_STEPS:
            return {}
        totals = zip(PHASES, first.totals, last.totals, strict=True)
        return {name: (after - before) / steps for name, before, after in totals if after > before}

    def limit_seconds(self, stalls: Stalls) -> float | None:
        """Return how long the worker may note nothing more; None where nobody can say."""
        pause = self.beat.pause
        if pause is Pause.UNKNOWN:
            return None
        learned = max(
            FLOOR_SECONDS[pause],
            MULTIPLES[pause] * self.longest.get(pause, 0.0),
            SETUP_AGAIN * self.longest.get(Pause.SETUP, 0.0),
        )
        if stalls.limit_minutes is None:
            return learned
        limit = stalls.limit_minutes * 60
        # Before the first batch, data is prepared and compared with nothing.
        return max(limit, learned) if PHASES[self.beat.phase] == "starting" else limit


class Beats:
    """The pulses of this node's ranks, and the record about them.

    Args:
        attempt: The attempt that the workers belong to.
        node_rank: Rank of this node, from 0.
        stalls: How long nothing may happen, and what to do then.
        gpus: Models of the GPUs of this machine, if the run uses them.
        usage: What reads the memory of the ranks; None to read that of the host alone.

    Attributes:
        pulses: What is known of each rank.
        stall: What was found when training stood still; None while it does not.
    """

    def __init__(
        self,
        attempt: Attempt,
        node_rank: int,
        stalls: Stalls,
        gpus: Sequence[str],
        usage: Usage | None = None,
    ) -> None:
        self.attempt, self.node_rank, self.stalls = attempt, node_rank, stalls
        self._gpus, self._usage = list(gpus), usage or Usage()
        self.pulses: dict[int, Pulse] = {}
        self.stall: Stall | None = None
        self._looked_at = time.monotonic()
        self._write_at = 0.0
        self._is_kept = False

    def open(self, rank: int) -> tuple[dict[str, str], tuple[int, int]]:
        """Make the files of one rank.

        Returns:
            The worker's environment variable that names them, and the descriptors to pass to it;
            call :meth:`opened` when it has them.
        """
        beats, stacks = create_memory(), create_memory()
        os.ftruncate(stacks, 0)
        self.pulses[rank] = Pulse(BeatMemory(beats), stacks)
        return {BEAT_VARIABLE: f"{beats},{stacks}"}, (beats, stacks)

    def opened(self, rank: int, beats: int, pid: int) -> None:
        """Note that a worker has been started with its files.

        Args:
            rank: The worker's rank among all workers.
            beats: Descriptor of the file that it writes its beats into.
            pid: Id of its process.
        """
        os.close(beats)
        self.pulses[rank].pid = pid

    def exit_code(self, rank: int) -> int | None:
        """Return what a worker was about to end with when its program had ended; None before."""
        return self.pulses[rank].memory.read_end()

    def is_hung_at_exit(self, rank: int) -> bool:
        """Return whether a worker's process has not ended long after its program."""
        minutes = self.stalls.limit_minutes
        limit = FLOOR_SECONDS[Pause.LONG] if minutes is None else minutes * 60
        return self.exit_code(rank) is not None and self.pulses[rank].silent_seconds > limit

    def look(self, alive: Iterable[int]) -> bool:
        """Read the beats, and write the record if a second has passed; whether it has.

        Args:
            alive: Ranks of the workers that still run.
        """
        if self._is_kept:
            return False
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        for rank in alive:
            self.pulses[rank].look(passed)
        if now < self._write_at:
            return False
        self._write_at = now + PERIOD_SECONDS
        self.write()
        return True

    def write(self) -> None:
        """Write the record; a full disk must not end training."""
        with contextlib.suppress(OSError):
            self.record().write(self.attempt.run.local)

    def record(self) -> NodeBeats:
        """Return what the ranks of this node do."""
        now, monotonic = time.time(), time.monotonic()
        used = self._usage.of({rank: pulse.pid for rank, pulse in self.pulses.items()})
        ranks = [
            replace(self._rank(rank, now - monotonic), **vars(used[rank]))
            for rank in sorted(self.pulses)
        ]
        return NodeBeats(
            *(self.attempt.number, self.node_rank, socket.gethostname(), now, ranks, self.stall),
            gpus=self._gpus,
        )

    def _rank(self, rank: int, offset: float) -> RankBeat:
        pulse = self.pulses[rank]
        beat = pulse.beat
        totals = dict(zip(PHASES, beat.totals, strict=True))
        if beat.count and PHASES[beat.phase] != "finished":
            totals[PHASES[beat.phase]] += pulse.silent_seconds
        known = RankBeat(rank, pulse.pid, beat.step, PHASES[beat.phase])
        return replace(
            known,
            phase_since=beat.since + offset if beat.count else 0,
            step_at=beat.step_at + offset if beat.step_at else None,
            seconds_per_step=statistics.median(pulse.paces) if pulse.paces else None,
            phase_seconds={
                phase: round(seconds, 3) for phase, seconds in totals.items() if seconds
            },
            recent_seconds={
                phase: round(seconds, 6) for phase, seconds in pulse.recent_seconds.items()
            },
            silent_seconds=round(pulse.silent_seconds, 3),
            limit_seconds=pulse.limit_seconds(self.stalls),
        )

    def keep(self) -> None:
        """Let the record say what the ranks do now, before they are ended and do something else."""
        self.look(self.pulses)
        self._is_kept = True

    def close(self) -> None:
        """Write down the end of the attempt, and close the files."""
        self.look(self.pulses)
        self.write()
        for pulse in self.pulses.values():
            os.close(pulse.stacks)
