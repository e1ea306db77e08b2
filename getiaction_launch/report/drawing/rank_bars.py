"""The ranks of an attempt as bars, and in a sentence that names the stragglers."""

from collections.abc import Sequence
from dataclasses import dataclass

from getiaction_launch.report.contents.ranks import RankPace, Spread
from getiaction_launch.report.words import duration

MOST_BARS = 64
_COLOURS = {
    "fetching": "f0",
    "forward": "f1",
    "backward": "f2",
    "optimizing": "f3",
    "validating": "f4",
    "saving": "f5",
    "starting": "p-starting",
    "waiting": "p-queued",
}
_MOST_NAMED = 8


@dataclass(frozen=True)
class Part:
    """A phase in the bar of a rank.

    Attributes:
        colour: Class of its colour in the style.
        x: Where it begins, in units of the drawing.
        width: How wide it is, in units of the drawing.
    """

    colour: str
    x: float
    width: float


@dataclass(frozen=True)
class Bar:
    """Where the time of one rank went.

    Attributes:
        pace: The pace of the rank.
        parts: Its phases, all bars on the same scale.
        label: The phases in words.
    """

    pace: RankPace
    parts: list[Part]
    label: str


@dataclass(frozen=True)
class RankView:
    """How fast the ranks were.

    Attributes:
        words: The spread in sentences, with the stragglers.
        bars: A bar for each rank that is shown.
        phases: The name of each phase, and the class of its colour.
    """

    words: str
    bars: list[Bar]
    phases: list[tuple[str, str]]


def rank_view(spread: Spread | None) -> RankView | None:
    """Return what a page shows about the ranks; None if nothing is known.

    Args:
        spread: The paces of the ranks.
    """
    if spread is None:
        return None
    there = {name for pace in spread.ranks for name, s in pace.phase_seconds.items() if s > 0}
    phases = [(name, colour) for name, colour in _COLOURS.items() if name in there]
    shown = _shown(spread)
    longest = max((_total(pace, phases) for pace in shown), default=0.0)
    return RankView(
        _words(spread, len(shown)), [_bar(pace, phases, longest) for pace in shown], phases
    )


def _shown(spread: Spread) -> Sequence[RankPace]:
    if len(spread.ranks) <= MOST_BARS:
        return spread.ranks
    return sorted(spread.ranks, key=lambda pace: -(pace.seconds or 0))[:MOST_BARS]


def _total(pace: RankPace, phases: Sequence[tuple[str, str]]) -> float:
    return sum(pace.phase_seconds.get(name, 0.0) for name, _ in phases)


def _bar(pace: RankPace, phases: Sequence[tuple[str, str]], longest: float) -> Bar:
    parts, labels, x = [], [], 0.0
    for name, colour in phases:
        seconds = pace.phase_seconds.get(name, 0.0)
        if seconds > 0 and longest > 0:
            width = seconds / longest * 1000
            parts.append(Part(colour, round(x, 1), round(width, 1)))
            labels.append(f"{name} {duration(seconds)}")
            x += width
    return Bar(pace, parts, f"Rank {pace.rank}: {', '.join(labels) or 'no phases recorded'}")


def _words(spread: Spread, shown: int) -> str:
    times = [pace.seconds for pace in spread.ranks if pace.seconds]
    if not times or spread.median_seconds is None:
        return f"Attempt {spread.attempt}: no rank has finished enough steps to know its pace."
    own = "per step without waiting for the others" if spread.is_own_time else "per step"
    middle, fast, slow = map(duration, (spread.median_seconds, min(times), max(times)))
    first = f"In attempt {spread.attempt}, the median rank took {middle} {own}"
    sentences = [f"{first}; the fastest took {fast}, the slowest {slow}."]
    stragglers = spread.stragglers
    for pace in stragglers[:_MOST_NAMED]:
        where = f"rank {pace.rank} on node {pace.node_rank}"
        where += f" ({pace.host})" if pace.host else ""
        phase = f", mostly while {pace.slowest_phase}" if pace.slowest_phase else ""
        sentences.append(f"The others wait for {where}: {pace.ratio:.1f} times the median{phase}.")
    if len(stragglers) > _MOST_NAMED:
        sentences.append(f"{len(stragglers) - _MOST_NAMED} more ranks are as slow.")
    if not stragglers and len(times) > 1:
        sentences.append("No rank holds up the others.")
    if shown < len(spread.ranks):
        sentences.append(f"The table has the {shown} slowest of {len(spread.ranks)} ranks.")
    return " ".join(sentences)
