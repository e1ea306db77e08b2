"""How fast each rank was, and which ones the others had to wait for.

:mod:`getiaction_launch.run.beats.stragglers` says what the own time of a rank is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from getiaction_launch.run.beats.records import NodeBeats, RankBeat
from getiaction_launch.run.beats.stragglers import OWN, SHARED, own_seconds

SLOWER_THAN_MEDIAN = 1.2
"""From which ratio to the median on a rank counts as a straggler."""


@dataclass(frozen=True)
class RankPace:
    """The pace of one rank.

    Attributes:
        rank: The worker's rank among all workers.
        node_rank: Rank of its node, from 0.
        host: Host name of that node.
        seconds: Own time per step in seconds, without waiting for other ranks; None if unknown.
        seconds_per_step: Time from one step to the next, in seconds; None if unknown.
        phase_seconds: Time spent in each phase during the attempt, in seconds.
        slowest_phase: The phase in which a straggler loses most; empty for any other rank.
        ratio: ``seconds`` against the median of all ranks; None if unknown.
    """

    rank: int
    node_rank: int
    host: str
    seconds: float | None
    seconds_per_step: float | None
    phase_seconds: dict[str, float] = field(default_factory=dict)
    slowest_phase: str = ""
    ratio: float | None = None

    @property
    def is_straggler(self) -> bool:
        """Whether the other ranks wait for this one."""
        return self.ratio is not None and self.ratio >= SLOWER_THAN_MEDIAN


@dataclass(frozen=True)
class Spread:
    """The paces of all ranks in one attempt.

    Attributes:
        attempt: Number of the attempt, from 0.
        ranks: The ranks in their order.
        median_seconds: Median of the ranks' own time per step; None if unknown.
        is_own_time: Whether the times are without waiting for other ranks.
    """

    attempt: int
    ranks: list[RankPace]
    median_seconds: float | None
    is_own_time: bool

    @property
    def stragglers(self) -> list[RankPace]:
        """The ranks that the others wait for, the slowest one first."""
        found = [pace for pace in self.ranks if pace.is_straggler]
        return sorted(found, key=lambda pace: -(pace.ratio or 0))


def spread(nodes: Sequence[NodeBeats], first_step: int) -> Spread | None:
    """Compare the ranks of an attempt; None if no rank has reported.

    Args:
        nodes: What the nodes of the attempt have reported.
        first_step: Steps of earlier attempts.
    """
    pairs = [(node, beat) for node in nodes for beat in node.ranks]
    if not pairs:
        return None
    own = _own_seconds([beat for _, beat in pairs], first_step)
    is_own_time = all(seconds is not None for seconds in own)
    times = own if is_own_time else [beat.seconds_per_step for _, beat in pairs]
    known = [seconds for seconds in times if seconds is not None and seconds > 0]
    middle = median(known) if known else None
    beats = [beat for _, beat in pairs]
    ranks = []
    for (node, beat), seconds in zip(pairs, times, strict=True):
        ratio = seconds / middle if seconds is not None and middle and len(known) > 1 else None
        is_slow = ratio is not None and ratio >= SLOWER_THAN_MEDIAN
        ranks.append(
            RankPace(
                *(beat.rank, node.node_rank, node.host, seconds, beat.seconds_per_step),
                phase_seconds={name: max(0.0, s) for name, s in beat.phase_seconds.items()},
                slowest_phase=_slowest_phase(beat, beats) if is_slow else "",
                ratio=ratio,
            )
        )
    ranks.sort(key=lambda pace: pace.rank)
    return Spread(nodes[0].attempt, ranks, middle, is_own_time)


def _own_seconds(beats: Sequence[RankBeat], first_step: int) -> list[float | None]:
    """Return the own time of each rank per step, in seconds; None where it is unknown."""
    is_known = [beat.step > first_step and SHARED in beat.phase_seconds for beat in beats]
    phases = [
        {name: seconds / (beat.step - first_step) for name, seconds in beat.phase_seconds.items()}
        for beat, known in zip(beats, is_known, strict=True)
        if known
    ]
    own = iter(own_seconds(phases))
    return [next(own) if known else None for known in is_known]


def _slowest_phase(beat: RankBeat, beats: Sequence[RankBeat]) -> str:
    """Return the phase that takes this rank longer than the others, by the largest difference."""
    extra = {
        name: seconds - median(other.phase_seconds.get(name, 0.0) for other in beats)
        for name, seconds in beat.phase_seconds.items()
        if name in OWN
    }
    return max(extra, key=extra.__getitem__, default="")
