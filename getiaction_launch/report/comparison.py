"""Several runs side by side: a table, and the same metric of all runs in one chart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from getiaction_launch.report.contents.curves import (
    ALL_POINTS,
    THROUGHPUT,
    Group,
    Line,
    family,
    thin,
)
from getiaction_launch.report.contents.run_report import RunReport
from getiaction_launch.report.words import count, duration, number

MOST_LINES = 24
"""How many runs a chart shows; the table has all of them."""
_MOST_CHARTS = 12


@dataclass(frozen=True)
class Column:
    """A run in the table.

    Attributes:
        name: Name of the run.
        label: What the charts call it.
        state: Where the run stands now.
        sweep: Its values in the sweep, as typed.
        best: Best value of the metric, in words.
        last: Last value of the metric, in words.
        steps: Steps so far, in words.
        duration: Time since its first attempt began, in words.
        attempts: How many attempts it has had.
        is_best: Whether no other run has a better value.
    """

    name: str
    label: str
    state: str
    sweep: list[str]
    best: str
    last: str
    steps: str
    duration: str
    attempts: int
    is_best: bool


@dataclass(frozen=True)
class Comparison:
    """Several runs side by side.

    Attributes:
        keys: The keys of the sweep; empty if the runs are of none.
        metric: The metric by which the runs are compared; None if they have none in common.
        rows: A row for each run.
        groups: For each metric the curves of all runs.
    """

    keys: list[str]
    metric: str | None
    rows: list[Column]
    groups: list[Group]


def compare(reports: Sequence[RunReport]) -> Comparison:
    """Put several runs side by side, in the order in which they were named.

    Args:
        reports: What was read of each run.
    """
    keys = list(dict.fromkeys(key for report in reports for key in report.sweep))
    metrics = [report.metric for report in reports if report.metric]
    metric = max(metrics, key=metrics.count, default=None)
    labels = _labels(reports, keys)
    best = _best(reports, metric)
    rows = [
        Column(
            *(report.name, label, report.state, [report.sweep.get(key, "") for key in keys]),
            best=number(report.best if report.metric == metric else None),
            last=number(report.last if report.metric == metric else None),
            steps=count(report.step),
            duration=duration(report.timeline.seconds) if report.timeline.seconds else "-",
            attempts=len(report.timeline.attempts),
            is_best=best is not None and report.metric == metric and report.best == best,
        )
        for report, label in zip(reports, labels, strict=True)
    ]
    return Comparison(keys, metric, rows, _groups(reports, labels, metric))


def short_key(key: str) -> str:
    """Return the last part of a dotted key, which says enough in a table.

    Args:
        key: The dotted key of a spec, or the flag of a script.
    """
    return key.rpartition(".")[2] or key


def _labels(reports: Sequence[RunReport], keys: Sequence[str]) -> list[str]:
    points = [
        " ".join(f"{short_key(key)}={report.sweep[key]}" for key in keys if key in report.sweep)
        for report in reports
    ]
    if all(points) and len(set(points)) == len(points):
        return points
    names = [report.name for report in reports]
    return names if len(set(names)) == len(names) else [report.directory for report in reports]


def _best(reports: Sequence[RunReport], metric: str | None) -> float | None:
    same = [report for report in reports if report.metric == metric and report.best is not None]
    values = [report.best for report in same if report.best is not None]
    values = [value for value in values if math.isfinite(value)]
    directions = {report.lower_is_better for report in same}
    if len(values) <= 1 or len(directions) != 1 or None in directions:
        return None
    return min(values) if directions.pop() else max(values)


def _groups(reports: Sequence[RunReport], labels: Sequence[str], metric: str | None) -> list[Group]:
    lines: dict[str, list[Line]] = {}
    kinds: dict[str, Group] = {}
    for report, label in list(zip(reports, labels, strict=True))[:MOST_LINES]:
        groups = [*report.groups, *([report.throughput] if report.throughput else [])]
        for group in groups:
            for line in group.lines:
                title = THROUGHPUT if group.title == THROUGHPUT else line.name
                lines.setdefault(title, []).append(replace(line, name=label))
                kinds[title] = group
    first = family(metric) if metric else ""

    def rank(title: str) -> tuple[bool, bool, bool, str]:
        is_first = title in (metric, f"{metric}_epoch")
        return not is_first, family(title) != first, title != THROUGHPUT, title

    chosen = sorted(lines, key=rank)[:_MOST_CHARTS]
    most = max(100, ALL_POINTS // max(1, sum(len(lines[title]) for title in chosen)))
    return [
        replace(kinds[title], title=title, lines=[_thinner(line, most) for line in lines[title]])
        for title in chosen
    ]


def _thinner(line: Line, most: int) -> Line:
    steps, values = thin(line.steps, line.values, most)
    return replace(line, steps=steps, values=values, lost=[])
