"""Runs as a table, or for machines: a line or an object for each."""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from getiaction_launch.cli import show
from getiaction_launch.launch import pulse
from getiaction_launch.launch.listing.better import judged_value
from getiaction_launch.launch.listing.entry import Entry
from getiaction_launch.launch.listing.order import KEYS
from getiaction_launch.plan.durations import age, duration
from getiaction_launch.plan.plan import SweepPoint
from getiaction_launch.plan.text import clean_line

NONE = "-"
_GAP = 2


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        title: Head of the column.
        cells: What it shows of each run.
        loss: When to leave it out if the terminal is too narrow: the lowest number first; 0: never.
    """

    title: str
    cells: list[str]
    loss: int = 0

    @property
    def width(self) -> int:
        """How many characters its widest cell has."""
        return max(len(clean_line(text)) for text in [self.title, *self.cells])

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing of any run."""
        return all(cell in ("", NONE) for cell in self.cells)


def listing(entries: Sequence[Entry], key: str = "", *, is_sweep: bool = False) -> str:
    """Show runs, a line each, with as many columns as the terminal has room for.

    Args:
        entries: The runs, in the order in which they are shown.
        key: By what they are sorted; the value of a metric is shown.
        is_sweep: Whether they are the points of one sweep, so that each key gets a column.
    """
    progress = [entry.status.progress for entry in entries]
    values = [show.final_loss(each).split("  ")[0] for each in progress]
    are_losses = all("loss" in value or value == NONE for value in values)
    metric = Column("LOSS" if are_losses else "METRIC", values)
    if key and key not in KEYS:
        metric = Column(key, [_number(judged_value(key, each)) for each in progress])
    points = [entry.sweep for entry in entries]
    columns = [
        Column("RUN", _names(entries)),
        *(_axes(points) if is_sweep else []),
        Column("STATE", [_state(entry) for entry in entries]),
        Column("STEP", [_count(each.step) for each in progress]),
        metric,
        Column("AGE", [_age(entry.found.submitted_at) for entry in entries], 8),
    ]
    optional = [
        Column("DURATION", [_duration(entry.elapsed_seconds) for entry in entries], 6),
        Column("NODES", [_nodes(entry) for entry in entries], 3),
        Column("CLUSTER", [entry.cluster or NONE for entry in entries], 2),
        Column("CHECKPOINT", [_count(entry.checkpoint_step) for entry in entries], 1),
        Column("LAST STEP", [pulse.last_step(entry.status) for entry in entries], 4),
        Column("BEST", [_best(entry, metric.title) for entry in entries], 5),
        Column("SWEEP", ["" if is_sweep else _point(point) for point in points], 7),
    ]
    columns += [column for column in optional if not column.is_empty]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    shown = _fitting(columns, width)
    rows = zip(*(column.cells for column in shown), strict=True)
    return show.table([tuple(column.title for column in shown), *rows])


def _fitting(columns: Sequence[Column], width: int | None) -> list[Column]:
    """Leave out the least important columns until the rest fits into the width."""
    shown = list(columns)
    while width is not None and sum(c.width + _GAP for c in shown) - _GAP > width:
        expendable = [column for column in shown if column.loss]
        if not expendable:
            break
        shown.remove(min(expendable, key=lambda column: column.loss))
    return shown


def _names(entries: Sequence[Entry]) -> list[str]:
    # Names say enough where all runs lie under one root.
    places = [entry.found.run.directory for entry in entries]
    if len({place.parent.parent for place in places}) == 1:
        return [entry.found.run.name for entry in entries]
    return [show.short(place) for place in places]


def _axes(points: Sequence[SweepPoint | None]) -> list[Column]:
    """Return a column for each key of a sweep, named by its last part where that is enough."""
    keys = list(dict.fromkeys(key for point in points if point for key in point.values))
    short = [key.rpartition(".")[2] or key for key in keys]
    titles = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    return [
        Column(title, [point.values.get(key, NONE) if point else NONE for point in points])
        for key, title in zip(keys, titles, strict=True)
    ]


def _point(point: SweepPoint | None) -> str:
    values = point.values.items() if point else ()
    words = [f"{key.rpartition('.')[2]}={value}" for key, value in values]
    return " ".join([point.group, *words]) if point else ""


def _state(entry: Entry) -> str:
    return entry.state + (", stalled" if pulse.stall_of(entry.status) else "")


def _age(submitted_at: float) -> str:
    return age(time.time() - submitted_at) if math.isfinite(submitted_at) else NONE


def _duration(seconds: float | None) -> str:
    return NONE if seconds is None or not math.isfinite(seconds) else duration(seconds)


def _nodes(entry: Entry) -> str:
    return str(entry.topology.num_nodes) if entry.topology else NONE


def _count(number: int | None) -> str:
    return NONE if number is None else str(number)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}"


def _best(entry: Entry, shown: str) -> str:
    """The best value so far of each metric that a ModelCheckpoint of the user monitors."""
    best = entry.status.progress.best.items()
    return "  ".join(f"{name} {value:.4g}" for name, value in best if name != shown)


def as_json(entry: Entry) -> dict[str, object]:
    """Return a run for machines, with everything that the table has or leaves out.

    Args:
        entry: The run that is shown.
    """
    topology, sweep = entry.topology, entry.sweep
    return {
        **show.as_json(entry.status),
        "submitted_at": entry.found.submitted_at,
        "elapsed_seconds": entry.elapsed_seconds,
        "nodes": topology and topology.num_nodes,
        "workers_per_node": topology and topology.workers_per_node,
        "gpus_per_node": topology and topology.gpus_per_node,
        "cluster": entry.cluster or None,
        "checkpoint_step": entry.checkpoint_step,
        "sweep": {"name": sweep.group, "values": sweep.values} if sweep else None,
    }
