"""Curves as paths of an SVG that stretches to the width of its page, with its scales and marks.

The SVG is made here and not by a library in the browser: the page works without a script, its text
stays text, and the script of a library that draws as much (Plotly, Vega) is many times as large as
the whole page of a run. Only what follows the pointer is a script of a few lines.

The width of a drawing is always 1,000 units. The page stretches these to its own width, and not the
height, so that labels keep their size on a phone.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from getiaction_launch.report.contents.curves import Group, Line, Mark
from getiaction_launch.report.drawing.palette import LIGHT_LINES
from getiaction_launch.report.words import count, number

WIDTH = 1000
HEIGHT = 220
_TOP, _BOTTOM = 8, 6
_LOG_FROM_RATIO = 30.0
_FEW = 40
_MOST_TICKS = 6
_ROUNDED_DOWN = 0.8


@dataclass(frozen=True)
class Tick:
    """A label of a scale.

    Attributes:
        at: Where it is: in units of the drawing.
        label: The value there, in words.
        percent: The same place in percent of the width; empty on a vertical scale.
    """

    at: float
    label: str
    percent: str = ""


@dataclass(frozen=True)
class Stroke:
    """One curve of a drawing.

    Attributes:
        name: What the legend calls it.
        place: Its place in the legend, from 0.
        colour: Index of its colour.
        dash: Index of its pattern, for more curves than there are colours.
        path: The curve itself, as SVG.
        is_faint: Whether the running mean is drawn on top of it.
        smooth: The running mean; empty if there is none.
        lost: What a later attempt has trained again.
        dots: A dot for each value of a curve of few values.
    """

    name: str
    place: int
    colour: int
    dash: int
    path: str
    is_faint: bool
    smooth: str
    lost: list[str]
    dots: str


@dataclass(frozen=True)
class Row:
    """A curve in words, for the table behind the chart.

    Attributes:
        name: What the legend calls it.
        first: First value of the curve.
        last: Last value of the curve.
        lowest: Its smallest value, with the step.
        highest: Its largest value, with the step.
        total: How many values were logged.
        warning: Since when it is not finite; empty if it always is.
    """

    name: str
    first: str
    last: str
    lowest: str
    highest: str
    total: str
    warning: str


@dataclass(frozen=True)
class Chart:
    """One drawing with its scales, its legend and its table.

    Attributes:
        key: A name that no other chart of the page has.
        title: What the curves show.
        unit: Unit of the values; empty if they have none.
        is_log: Whether the vertical scale is logarithmic.
        x_ticks: Labels of the steps.
        y_ticks: Labels of the values.
        strokes: The curves in their order.
        marks: Where attempts have continued.
        rows: The curves in words.
        data: What the page's script needs to show values below the pointer.
    """

    key: str
    title: str
    unit: str
    is_log: bool
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    strokes: list[Stroke]
    marks: list[Tick]
    rows: list[Row]
    data: dict[str, object] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The chart in a sentence, for those who do not see it."""
        ends = "; ".join(f"{row.name} from {row.first} to {row.last}" for row in self.rows[:6])
        return f"{self.title} over steps. {ends}."


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._on(self.low), self._on(self.high)
        share = (self._on(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def _on(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def draw(key: str, group: Group, marks: Sequence[Mark] = ()) -> Chart | None:
    """Draw the curves of one group; None if they have no value that can be drawn.

    Args:
        key: A name that no other chart of the page has.
        group: The curves to draw.
        marks: The steps at which attempts have continued.
    """
    values = [v for line in group.lines for v in _drawn_values(line) if math.isfinite(v)]
    steps = [s for line in group.lines for s in line.steps]
    if not values:
        return None
    low, high = min(values), max(values)
    low = min(0.0, low) if group.is_from_zero else low
    is_log = low > 0 and high / low >= _LOG_FROM_RATIO
    ticks = _log_ticks(low, high) if is_log else _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    if low == high:
        low, high = low - 0.5, high + 0.5
    across = _Scale(min(steps), max(steps), 0, WIDTH)
    up = _Scale(low, high, HEIGHT - _BOTTOM, _TOP, is_log)
    return Chart(
        *(key, group.title, group.unit, is_log),
        x_ticks=[
            _at(across(step), count(round(step)))
            for step in _ticks(min(steps), max(steps), whole=True)
            if min(steps) <= step <= max(steps)
        ],
        y_ticks=[Tick(round(up(value), 1), number(value)) for value in ticks],
        strokes=[_stroke(line, i, across, up) for i, line in enumerate(group.lines)],
        marks=[
            _at(across(mark.step), str(mark.attempt))
            for mark in marks
            if min(steps) <= mark.step <= max(steps)
        ],
        rows=[_row(line) for line in group.lines],
        data={
            "x": [min(steps), max(steps)],
            "y": [low, high],
            "log": is_log,
            "range": [HEIGHT - _BOTTOM, _TOP],
            "lines": [
                {"name": line.name, "s": line.steps, "v": [_short(v) for v in line.values]}
                for line in group.lines
            ],
        },
    )


def _drawn_values(line: Line) -> Iterable[float]:
    yield from line.values
    for _, values in line.lost:
        yield from values


def _stroke(line: Line, place: int, across: _Scale, up: _Scale) -> Stroke:
    colours = len(LIGHT_LINES)
    is_few = len(line.steps) <= _FEW
    return Stroke(
        *(line.name, place, place % colours, place // colours % 3),
        path=_path(line.steps, line.values, across, up),
        is_faint=bool(line.smooth_steps),
        smooth=_path(line.smooth_steps, line.smooth_values, across, up),
        lost=[_path(steps, values, across, up) for steps, values in line.lost],
        dots=_dots(line.steps, line.values, across, up) if is_few else "",
    )


def _path(steps: Sequence[float], values: Sequence[float], across: _Scale, up: _Scale) -> str:
    parts, command = [], "M"
    for step, value in zip(steps, values, strict=True):
        if not math.isfinite(value) or not across.low <= step <= across.high:
            command = "M"
            continue
        parts.append(f"{command}{across(step):.1f} {up(value):.1f}")
        command = "L"
    return "".join(parts)


def _dots(steps: Sequence[float], values: Sequence[float], across: _Scale, up: _Scale) -> str:
    # Lines of no length with round ends, since a circle would be stretched with the page.
    return "".join(
        f"M{across(step):.1f} {up(value):.1f}h0"
        for step, value in zip(steps, values, strict=True)
        if math.isfinite(value)
    )


def _row(line: Line) -> Row:
    pairs = [(v, s) for s, v in zip(line.steps, line.values, strict=True) if math.isfinite(v)]
    low, high = min(pairs, default=None), max(pairs, default=None)
    bad = line.not_finite
    return Row(
        line.name,
        number(pairs[0][0]) if pairs else "-",
        number(line.values[-1]) if line.values else "-",
        f"{number(low[0])} at step {count(round(low[1]))}" if low else "-",
        f"{number(high[0])} at step {count(round(high[1]))}" if high else "-",
        count(line.total),
        "" if bad is None else f"NaN or infinite at step {count(round(bad))} for the first time",
    )


def _at(place: float, label: str) -> Tick:
    return Tick(round(place, 1), label, f"{place / WIDTH * 100:.2f}%")


def _short(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return round values from below ``low`` to above ``high``, some five of them."""
    width = high - low
    if not math.isfinite(width) or width <= abs(high) * 1e-12:
        return [low]
    rough = width / (_MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 0.0
    if power == 0 or not math.isfinite(power):
        return [low, high]
    size = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * _ROUNDED_DOWN)
    size = max(1.0, size if size != 2.5 else 5.0) if whole else size  # noqa: PLR2004 - between steps
    first, last = math.floor(low / size), math.ceil(high / size)
    return [round(place * size, 12) for place in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    stride = max(1, math.ceil((last - first) / _MOST_TICKS))
    decades = [10.0**power for power in range(first, min(last, 300) + 1, stride)]
    factors = (1, 2, 5) if last - first <= 3 else (1,)  # noqa: PLR2004 - few decades
    found = [decade * factor for decade in decades for factor in factors]
    below = max((value for value in found if value <= low), default=low)
    return [below, *(value for value in found if low < value <= high)]
