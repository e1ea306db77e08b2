"""The rank that the others wait for in every step, while training makes progress.

In data-parallel training all ranks take a step together, so a slow rank slows all of them and their
step times are equal. DDP waits in the backward pass, which is shortest in the rank that waits
least. So the own time of a rank is what it spends in the other phases of its steps, and the
shortest backward pass of all ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from getiaction_launch.run.beats.records import NodeBeats, Phase

OWN: tuple[Phase, ...] = ("fetching", "forward", "optimizing")
SHARED: Phase = "backward"
SLOW = 1.5
"""How many times the own time of the other ranks a rank needs to be named."""
NOTABLE = 0.2
"""Which part of a step the others must wait for it: what is less is not worth a search."""


@dataclass(frozen=True)
class Straggler:
    """A rank that slows all of them.

    Attributes:
        rank: The worker's rank among all workers.
        node_rank: Rank of its node, from 0.
        host: Host name of that node.
        seconds: Its own time per step in seconds, without waiting for other ranks.
        ratio: How many times the own time of the other ranks that is.
        phase: The phase in which it loses most.
    """

    rank: int
    node_rank: int
    host: str
    seconds: float
    ratio: float
    phase: Phase


def own_seconds(phases: Sequence[Mapping[str, float]]) -> list[float]:
    """Return the own time of each rank per step, in seconds.

    Args:
        phases: Seconds per step that each rank spends in each phase.
    """
    shared = min((each.get(SHARED, 0.0) for each in phases), default=0.0)
    return [sum(each.get(name, 0.0) for name in OWN) + shared for each in phases]


def find_straggler(nodes: Sequence[NodeBeats]) -> Straggler | None:
    """Find the rank that the others have waited for lately; None if they are about as fast.

    Args:
        nodes: What all nodes have last recorded.
    """
    ranks = [(beat, node) for node in nodes for beat in node.ranks]
    phases = [beat.recent_seconds for beat, _ in ranks]
    if len(ranks) < 2 or not all(phases):  # noqa: PLR2004 - nobody waits for a rank alone
        return None
    own = own_seconds(phases)
    slowest = max(range(len(own)), key=own.__getitem__)
    others = [index for index in range(len(own)) if index != slowest]
    usual = median(own[index] for index in others)
    extra = own[slowest] - usual
    if (
        not usual > 0
        or own[slowest] < SLOW * usual
        or extra < NOTABLE * sum(phases[slowest].values())
    ):
        return None

    def lost(phase: Phase) -> float:
        return phases[slowest].get(phase, 0.0) - median(phases[n].get(phase, 0.0) for n in others)

    beat, node = ranks[slowest]
    seconds = own[slowest]
    return Straggler(
        beat.rank, node.node_rank, node.host, seconds, seconds / usual, max(OWN, key=lost)
    )
