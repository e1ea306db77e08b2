"""Which rank the others wait for, by what each rank does and where its main thread is.

A rank that waits in a collective has arrived; the odd one has not. Where nobody runs Python code in
a collective (on GPUs, collectives are waited for wherever the program next needs a value), the rank
that is elsewhere than most is the odd one, or the one that is behind.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from getiaction_launch.run.beats.records import PHASES, NodeBeats
from getiaction_launch.run.beats.stacks import Frame, NodeStacks, RankStacks
from getiaction_launch.run.node_records import TIMED_OUT, WORKER_DIED, WorkerError

_COLLECTIVES = re.compile(r"torch/(distributed/|nn/parallel/distributed\.py)")
_ENGINE = "_engine_run_backward"
_LIBRARIES = re.compile(
    r"(site|dist)-packages/|lib/python\d|^<|getiaction_launch/|importlib|^(threading|queue)\.py"
)
_LIGHTNING = re.compile(r"/(lightning/|pytorch_lightning/)")
_TIMEOUT = re.compile(r"timed? ?out|timeout")
_IN_STEP = ("fetching", "forward", "backward", "optimizing")
_IN_FIT = (*_IN_STEP, "validating", "saving")
_SHOWN = 4


@dataclass(frozen=True)
class RankState:
    """What is known of one rank.

    Attributes:
        rank: The worker's rank among all workers.
        node_rank: Rank of its node.
        host: Host name of its node.
        step: Training batches so far, over all attempts.
        phase: What it is doing.
        stacks: Where its threads are, as far as that is known.
    """

    rank: int
    node_rank: int
    host: str
    step: int = 0
    phase: str = "starting"
    stacks: RankStacks = field(default_factory=lambda: RankStacks(-1))

    def __str__(self) -> str:
        return f"rank {self.rank} on node {self.node_rank} ({self.host})"

    @property
    def is_waiting(self) -> bool:
        """Whether it waits in a collective, so that others have not arrived there."""
        if self.phase == "waiting":
            return True
        innermost = self.stacks.frames[:1]
        if not innermost:
            return False
        # Without Lightning, the phase stays the first one.
        is_backward = self.phase in ("backward", "starting")
        is_engine = is_backward and innermost[0].function == _ENGINE
        return is_engine or bool(_COLLECTIVES.search(innermost[0].file))

    @property
    def is_in_own_collective(self) -> bool:
        """Whether the user's own code waits in a hook that Lightning has called.

        Lightning's own collectives are the same on all ranks, those of a hook may not be.
        """
        calls = [bool(_LIBRARIES.search(frame.file)) for frame in self.stacks.frames]
        if all(calls):
            return False
        callers = self.stacks.frames[calls.index(False) :]
        return any(_LIGHTNING.search(frame.file) for frame in callers)

    @property
    def place(self) -> Frame | None:
        """The innermost call of the user's own code; of any code, if there is none."""
        frames = self.stacks.frames
        own = (frame for frame in frames if not _LIBRARIES.search(frame.file))
        return next(own, frames[0] if frames else None)

    @property
    def what(self) -> str:
        """Say what it is doing, as the end of a sentence."""
        if self.stacks.is_stopped:
            return f"was stopped by a signal (SIGSTOP) while {self.phase}"
        where = f", at {_short(self.place)}" if self.place else ""
        if self.is_waiting:
            frames = self.stacks.frames
            name = frames[0].function if frames and frames[0].function != _ENGINE else ""
            return f"waits in a collective{f' ({name})' if name else ''} while {self.phase}{where}"
        verb = {"saving": "is saving a checkpoint", "fetching": "is fetching a batch"}
        return f"{verb.get(self.phase, f'is {_doing(self.phase)}')}{where}"


def _doing(phase: str) -> str:
    passes = {"forward": "in its forward pass", "backward": "in its backward pass"}
    outside = dict.fromkeys(("starting", "finished"), "outside of the training loop")
    return (passes | outside).get(phase, phase)


def _short(frame: Frame | None) -> str:
    if frame is None:
        return ""
    return f"{frame.function} ({'/'.join(frame.file.split('/')[-2:])}:{frame.line})"


@dataclass(frozen=True)
class Odd:
    """Which ranks the others wait for.

    Attributes:
        ranks: These ranks, the lowest one first; empty if nobody can say.
        reason: What they do, in words that end a sentence.
    """

    ranks: list[int]
    reason: str


def states_of(beats: Sequence[NodeBeats], stacks: Sequence[NodeStacks]) -> list[RankState]:
    """Join what nodes have recorded of their ranks, the lowest rank first."""
    known = {each.rank: each for node in stacks for each in node.ranks}
    found = {
        each.rank: RankState(
            *(each.rank, node.node_rank, node.host, each.step, each.phase),
            known.get(each.rank, RankStacks(each.rank)),
        )
        for node in beats
        for each in node.ranks
    }
    return [found[rank] for rank in sorted(found)]


def find_odd(states: Sequence[RankState]) -> Odd:
    """Find the ranks that the others wait for.

    Args:
        states: What is known of every rank.
    """
    if not states:
        return Odd([], "nothing is known of its ranks")
    if len(states) == 1:
        return Odd([states[0].rank], f"{states[0]} {states[0].what}")
    stopped = [each for each in states if each.stacks.is_stopped]
    absent = _without_waiting([each for each in states if not each.is_waiting])
    if not stopped and not absent:
        return _of_collectives(states)
    odd = stopped or (absent if len(absent) < len(states) else None)
    odd = odd or _fewest(states, _step_and_phase) or _fewest(states, _frames) or _behind(states)
    if odd:
        return _odd(odd, states)
    return Odd([], f"all ranks are at the same place: {states[0]} {states[0].what}")


def has_timed_out(error: WorkerError) -> bool:
    """Whether a rank has failed because others did not arrive in a collective in time.

    Gloo raises in the ranks that waited; NCCL's own watchdog aborts their processes.
    """
    if error.type == WORKER_DIED:
        return error.message.endswith(TIMED_OUT)
    return error.is_consequence and bool(_TIMEOUT.search(error.message.lower()))


def find_absent(states: Sequence[RankState]) -> Odd | None:
    """Find the ranks that did not arrive in a collective that has timed out.

    Args:
        states: What each rank was doing when the attempt ended.

    Returns:
        These ranks; None if it cannot be said. Ranks that have failed had waited.
    """
    absent = [each for each in states if not each.is_waiting and each.phase in _IN_FIT]
    gone = [each for each in states if each not in absent]
    absent = _without_waiting(absent)
    return _odd(absent, states) if absent and gone else None


def _without_waiting(absent: list[RankState]) -> list[RankState]:
    """Leave out ranks that may wait in their backward pass, where stacks do not say so."""
    is_known = all(each.stacks.frames for each in absent)
    return absent if is_known else _behind(absent) or absent


def _odd(odd: Sequence[RankState], states: Sequence[RankState]) -> Odd:
    words = "; ".join(f"{each} {each.what}" for each in odd[:_SHOWN])
    more = f" and {len(odd) - _SHOWN} other ranks" if len(odd) > _SHOWN else ""
    rest = len(states) - len(odd)
    others = "; the others wait" if rest > 1 else "; the other one waits" if rest else ""
    return Odd([each.rank for each in odd], f"{words}{more}{others}")


def _of_collectives(states: Sequence[RankState]) -> Odd:
    """Find the ranks that wait in another collective than the others."""
    if len({_frames(each) for each in states}) < 2:  # noqa: PLR2004 - all the same
        return Odd([], f"all ranks wait in the same collective: {states[0]} {states[0].what}")
    own = [each for each in states if each.is_in_own_collective]
    few = own if 2 * len(own) < len(states) else []
    odd = few or _fewest(states, _frames) or sorted(states, key=lambda each: each not in own)
    words = "; ".join(f"{each} {each.what}" for each in odd[:_SHOWN])
    return Odd([each.rank for each in odd], f"ranks wait in different collectives: {words}")


def _step_and_phase(state: RankState) -> object:
    return state.step, state.phase


def _frames(state: RankState) -> object:
    return tuple((frame.function, frame.file) for frame in state.stacks.frames)


def _fewest(
    states: Sequence[RankState], key: Callable[[RankState], object]
) -> list[RankState] | None:
    """Return the ranks that differ from most others; None if there is no majority."""
    counts = Counter(map(key, states))
    (most, number), *rest = counts.most_common()
    if not rest or 2 * number <= len(states):
        return None
    return [each for each in states if key(each) != most]


def _behind(states: Sequence[RankState]) -> list[RankState]:
    """Return the ranks that have come less far than others."""

    def progress(state: RankState) -> tuple[int, int]:
        order = _IN_STEP.index(state.phase) if state.phase in _IN_STEP else len(PHASES)
        return state.step, order

    least = min(map(progress, states), default=None)
    found = [each for each in states if progress(each) == least]
    return found if len(found) < len(states) else []
