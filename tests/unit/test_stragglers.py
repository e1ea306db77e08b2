"""The rank that slows the others is found by the time that it does not wait for them."""

import pytest

from getiaction_launch.run.beats.records import NodeBeats, RankBeat
from getiaction_launch.run.beats.stragglers import find_straggler

FAST = {"fetching": 0.01, "forward": 0.1, "backward": 0.3}


def ranks(*phases):
    """Each rank is on a node of its own."""
    return [
        NodeBeats(0, rank, f"n{rank}", 0, [RankBeat(rank, recent_seconds=each)])
        for rank, each in enumerate(phases)
    ]


@pytest.mark.parametrize("phase", ["fetching", "forward", "optimizing"])
def test_the_slow_rank_and_its_phase_are_named(phase):
    """In whichever phase it loses the time that the others wait for it."""
    slow = {**FAST, phase: FAST.get(phase, 0) + 0.2, "backward": 0.1}
    found = find_straggler(ranks(FAST, FAST, slow))
    assert (found.rank, found.node_rank, found.host, found.phase) == (2, 2, "n2", phase)
    assert found.seconds == pytest.approx(0.41)
    assert found.ratio == pytest.approx(0.41 / 0.21)
    assert find_straggler(ranks(slow, FAST)).rank == 0, "of two ranks, too"


@pytest.mark.parametrize(
    "phases",
    [
        [{"forward": 1.0}, {"forward": 1.4}],
        [{"forward": 0.001, "backward": 0.1}, {"forward": 0.012, "backward": 0.1}],
        [{"forward": 0.001, "waiting": 0.2}, {"forward": 0.02, "waiting": 0.19}],
        [FAST],
        [FAST, {}],
        [{"forward": 0.0}, {"forward": 0.1}],
        [],
    ],
    ids=[
        "less than 1.5 times",
        "little of a step",
        "waits elsewhere",
        "alone",
        "unknown",
        "none",
        "nobody",
    ],
)
def test_nobody_is_blamed_for_little(phases):
    """Ranks are never equally fast; and what is not known is not blamed."""
    assert find_straggler(ranks(*phases)) is None
