"""Curves as they are drawn: in groups, thinned, and with the steps at which attempts began.

A curve is thinned to the smallest and largest value of each of some hundred stretches, so that no
spike is lost, whereas taking every Nth value would lose nearly all of them.
"""

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from getiaction_launch.report.contents.scalars import Curve, longest
from getiaction_launch.run.records import AttemptRecord

MOST_POINTS = 2000
"""How many values of a curve a page has at most."""
ALL_POINTS = 40_000
"""How many values all curves of a page have together, so that it stays below 2 MB."""
MOST_GROUPS = 24
THROUGHPUT, LEARNING_RATE = "throughput", "learning rate"
_HUGE = 1e300
_STRETCHES = 160
_SMOOTHED_FROM = 80
_SPLITS = ("train", "training", "val", "valid", "validation", "test", "eval", "evaluation", "dev")
_WHEN = ("step", "epoch")


@dataclass(frozen=True)
class Line:
    """One curve of a chart.

    Attributes:
        name: Name of the metric, or of the run where several runs are compared.
        steps: The step of each value.
        values: The values; NaN where the curve is interrupted.
        smooth_steps: Steps of the running mean; empty for a curve of few values.
        smooth_values: The running mean at these steps.
        lost: Steps and values that were trained again by a later attempt.
        total: How many values were logged.
        not_finite: Since which step a value was NaN or infinite for the first time; None if never.
    """

    name: str
    steps: list[float]
    values: list[float]
    smooth_steps: list[float] = field(default_factory=list)
    smooth_values: list[float] = field(default_factory=list)
    lost: list[tuple[list[float], list[float]]] = field(default_factory=list)
    total: int = 0
    not_finite: float | None = None


@dataclass(frozen=True)
class Group:
    """The curves of one chart.

    Attributes:
        title: What the curves show.
        unit: Unit of the values; empty if they have none.
        lines: The curves, the most important first.
        is_from_zero: Whether the scale begins at zero, as small differences mean little.
    """

    title: str
    unit: str
    lines: list[Line]
    is_from_zero: bool = False


@dataclass(frozen=True)
class Mark:
    """The step at which an attempt has continued.

    Attributes:
        step: The step, as the loggers count them.
        attempt: The attempt's number, from 0.
    """

    step: float
    attempt: int


def is_usable(value: float) -> bool:
    """Whether a value can be drawn: it is finite, and differences of such values are, too."""
    return abs(value) <= _HUGE


def family(name: str) -> str:
    """Return what a metric measures, without the data set and the moment: ``loss``.

    Args:
        name: Name of the metric, such as ``val/loss`` or ``train_loss_step``.
    """
    place, separator, name = name.rpartition(": ")
    words = [word for word in re.split(r"[/_ ]", name) if word]
    if name.startswith("lr-"):
        return LEARNING_RATE
    if len(words) > 1 and words[-1] in _WHEN:
        words.pop()
    if len(words) > 1 and words[0].lower() in _SPLITS:
        del words[0]
    return f"{place}{separator}{'_'.join(words)}" if words else name


def groups(curves: Mapping[str, Curve], shown: str | None) -> list[Group]:
    """Group the curves of one run into charts, the most important one first.

    Args:
        curves: The curves by the names of their metrics.
        shown: The metric that stands for the run; None if there is none.
    """
    families: dict[str, list[str]] = {}
    for name in curves:
        families.setdefault(family(name), []).append(name)
    first = family(shown) if shown else ""

    def rank(title: str) -> tuple[bool, bool, bool, str]:
        return title != first, "loss" not in title, title == LEARNING_RATE, title

    titles = sorted(families, key=rank)[:MOST_GROUPS]
    number = sum(len(families[title]) for title in titles)
    most = max(100, min(MOST_POINTS, ALL_POINTS // max(1, number)))
    return [
        Group(title, "", [line(name, curves[name], most) for name in _ordered(families[title])])
        for title in titles
    ]


def _ordered(names: Sequence[str]) -> list[str]:
    # Curves of every step lie below those of epochs, which would otherwise be hidden.
    return sorted(names, key=lambda name: (name.endswith("_step"), "val" not in name, name))


def line(name: str, curve: Curve, most: int = MOST_POINTS) -> Line:
    """Prepare a curve for its chart: thin it to at most so many values.

    Args:
        name: What the curve is called in its chart.
        curve: All values of the curve.
        most: How many values to keep.
    """
    steps, values = thin(curve.steps, curve.values, most)
    smooth_steps, smooth_values = smooth(curve.steps, curve.values)
    first_bad = next(
        (s for s, v in zip(curve.steps, curve.values, strict=True) if not is_usable(v)), None
    )
    lost = [thin(*piece, most // 4) for piece in curve.lost[-8:]]
    return Line(
        *(name, steps, values, smooth_steps, smooth_values, lost),
        total=len(curve.steps),
        not_finite=first_bad,
    )


def thin(
    steps: Sequence[float], values: Sequence[float], most: int
) -> tuple[list[float], list[float]]:
    """Keep the smallest and the largest value of each stretch, the first and the last value.

    Args:
        steps: The steps, in ascending order.
        values: The value at each step.
        most: How many values to keep.

    Returns:
        The steps and values that are kept, of which some may be NaN.
    """
    number = len(steps)
    if number <= most:
        return list(steps), [value if is_usable(value) else math.nan for value in values]
    stretches = max(1, most // 3 - 1)
    kept = {0, number - 1}
    for part in range(stretches):
        start, end = part * number // stretches, (part + 1) * number // stretches
        stretch = values[start:end]
        finite = [value for value in stretch if is_usable(value)]
        if finite:
            kept |= {start + stretch.index(f(finite)) for f in (min, max)}
        if len(finite) < len(stretch):
            kept.add(start + next(i for i, v in enumerate(stretch) if not is_usable(v)))
    places = sorted(kept)
    return (
        [steps[place] for place in places],
        [values[place] if is_usable(values[place]) else math.nan for place in places],
    )


def smooth(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the running mean of a curve with many values; nothing for one with few.

    Args:
        steps: The steps, in ascending order.
        values: The value at each step.
    """
    number = len(steps)
    if number < _SMOOTHED_FROM:
        return [], []
    finite = [is_usable(value) for value in values]
    sums = [0.0, *accumulate(v if ok else 0.0 for v, ok in zip(values, finite, strict=True))]
    counts = [0, *accumulate(finite)]
    half = max(2, number // 50)
    means: list[tuple[float, float]] = []
    for part in range(_STRETCHES + 1):
        middle = round(part * (number - 1) / _STRETCHES)
        # Narrower near both ends: there, a fixed width would flatten the fall of a loss.
        reach = min(half, middle, number - 1 - middle)
        start, end = middle - reach, middle + reach + 1
        counted = counts[end] - counts[start]
        mean = (sums[end] - sums[start]) / counted if counted else math.nan
        means.append((steps[middle], mean if is_usable(mean) else math.nan))
    return [step for step, _ in means], [mean for _, mean in means]


def throughput(curves: Mapping[str, Curve], starts: Sequence[float]) -> Curve | None:
    """Return steps per second over the steps; None if no logger has noted times.

    Args:
        curves: The curves by the names of their metrics.
        starts: When each attempt began, in seconds since the epoch.
    """
    source = longest(curves.values())
    if source is None:
        return None
    rates = Curve()
    number = len(source.steps)
    places = sorted({round(i * (number - 1) / _STRETCHES) for i in range(_STRETCHES + 1)})
    for before, after in pairwise(places):
        first, last = source.times[before], source.times[after]
        is_one_attempt = bisect_right(starts, first) == bisect_right(starts, last)
        if is_one_attempt and last > first:
            rate = (source.steps[after] - source.steps[before]) / (last - first)
            rates.add(source.steps[after], rate, last)
    return rates if rates.steps else None


def marks(curves: Mapping[str, Curve], attempts: Sequence[AttemptRecord]) -> list[Mark]:
    """Return the steps from which attempts have continued, as the loggers count steps.

    Args:
        curves: The curves by the names of their metrics.
        attempts: All attempts of the run, the first one first.
    """
    source = longest(curves.values())
    found = []
    for attempt in attempts[1:]:
        step = float(attempt.first_step)
        if source is not None:
            place = bisect_left(source.times, attempt.started_at)
            if place == len(source.times):
                continue  # it has logged nothing
            before = source.steps[place - 1] if place else 0.0
            # A logger may count other steps than the launcher: after accumulation, for example.
            step = min(max(step, before), source.steps[place])
        found.append(Mark(step, attempt.number))
    return found
