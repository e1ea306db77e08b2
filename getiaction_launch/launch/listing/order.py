"""Which of the runs that are there are listed, and in which order."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from getiaction_launch.errors import UsageError, nearest_first
from getiaction_launch.launch.listing.below import Found
from getiaction_launch.launch.listing.better import is_lower_better, judged_value
from getiaction_launch.launch.listing.entry import Entry, read_entries
from getiaction_launch.launch.status import sweeps_of
from getiaction_launch.run.metric import shown_metric
from getiaction_launch.storage.at_once import ROUND_TRIPS

AGE, NAME = "age", "name"
KEYS = (AGE, NAME, "state", "step", "duration")
"""By what runs can be sorted, besides the metrics that they have logged."""
_ASCENDING = (NAME, "state")


@dataclass(frozen=True)
class Order:
    """The order of a list, and what it leaves out.

    Attributes:
        key: One of :data:`KEYS`, or the name of a metric.
        is_reversed: Whether the last one comes first.
        states: The states to list; empty for all.
        limit: How many runs to list at most; None for all.
    """

    key: str = AGE
    is_reversed: bool = False
    states: Collection[str] = ()
    limit: int | None = None

    def read(self, found: Sequence[Found]) -> list[Entry]:
        """Read the runs that are listed, in their order, and no more of the others than it takes.

        Args:
            found: All runs, the newest first.

        Raises:
            UsageError: If no run has logged the metric by which they are to be sorted.
        """
        if self.limit is None or self.key not in (AGE, NAME):
            return self.arrange(read_entries(found))
        found = sorted(found, key=_by_name) if self.key == NAME else found
        found = found[::-1] if self.is_reversed else found
        taken: list[Entry] = []
        size = max(self.limit, ROUND_TRIPS) if self.states else self.limit
        for start in range(0, len(found), size):
            taken += filter(self._takes, read_entries(found[start : start + size]))
            if len(taken) >= self.limit:
                break
        return taken[: self.limit]

    def arrange(self, entries: Sequence[Entry]) -> list[Entry]:
        """Put runs that were read in this order, without those that it leaves out.

        Args:
            entries: The runs, the newest first.

        Raises:
            UsageError: If no run has logged the metric by which they are to be sorted.
        """
        taken = list(filter(self._takes, entries))
        values = [_value(entry, self.key) for entry in taken]
        is_metric = self.key not in KEYS
        if is_metric and taken and all(value is None for value in values):
            metrics = dict.fromkeys(name for each in taken for name in each.status.progress.metrics)
            raise UsageError(
                f"--sort {self.key}: no run here has logged such a metric.",
                nearest_first(self.key, [*metrics, *KEYS]),
            )
        ascends = is_lower(self.key, taken) is not False if is_metric else self.key in _ASCENDING
        return _ordered(taken, values, ascends=ascends != self.is_reversed)[: self.limit]

    def _takes(self, entry: Entry) -> bool:
        return not self.states or entry.state in self.states


def points_of(group: str, found: Sequence[Found]) -> list[Found]:
    """Return the points of a sweep; of the other runs, only the plan is read.

    Args:
        group: Name of the sweep, which all its points share.
        found: All runs, launched or not.
    """
    launched = [each for each in found if each.is_launched]
    points = sweeps_of([each.run for each in launched])
    pairs = zip(launched, points, strict=True)
    return [each for each, point in pairs if point and point.group == group]


def metric_of(entries: Sequence[Entry]) -> str | None:
    """Return the metric by which the points of a sweep are compared: the one that most show.

    Args:
        entries: The points of the sweep.
    """
    names = [name for entry in entries if (name := shown_metric(entry.status.progress))]
    return max(names, key=names.count, default=None)


def is_lower(metric: str, entries: Sequence[Entry]) -> bool | None:
    """Return which values of a metric are better; None if neither callbacks nor its name say so.

    Args:
        metric: Name of the metric.
        entries: The runs, whose callbacks may monitor it.
    """
    modes = [entry.status.progress.modes for entry in entries]
    return is_lower_better(metric, next((each for each in modes if metric in each), {}))


def _ordered(entries: Sequence[Entry], values: Sequence[Any], *, ascends: bool) -> list[Entry]:
    """Sort runs; those without a value, or with NaN, come last in any order."""
    pairs = list(zip(values, entries, strict=True))
    known = [pair for pair in pairs if not _is_missing(pair[0])]
    known.sort(key=itemgetter(0), reverse=not ascends)
    missing = [entry for value, entry in pairs if _is_missing(value)]
    return [*(entry for _, entry in known), *missing]


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _value(entry: Entry, key: str) -> object:
    if key == AGE:
        return entry.found.submitted_at
    if key == NAME:
        return _by_name(entry.found)
    if key == "state":
        return entry.state
    if key == "step":
        return entry.status.progress.step
    if key == "duration":
        return entry.elapsed_seconds
    return judged_value(key, entry.status.progress)


def _by_name(found: Found) -> tuple[str, int, str]:
    name, version = found.run.directory.parent.name, found.run.directory.name
    return name, len(version), version
