"""Whether the loggers of two trainings have written the same rows: none lost, none twice."""

import csv
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from getiaction_launch.drill.blame import Difference
from getiaction_launch.report.contents.scalars import Curve, read_curves
from getiaction_launch.run.run import Run

T = TypeVar("T")
TABLE = "metrics.csv"
_ALWAYS = {"epoch", "step"}
_FIX = (
    "Let the logger continue its history when training resumes, or log to TensorBoard or CSV. If a "
    "value differs in the same step, what it is computed from must be in the checkpoint."
)
_OF_THROUGHPUT = re.compile(r"(.*: )?(train|validate)\|.+")
"""Names of what ThroughputMonitor logs, perhaps behind the directory of its logger."""
_KEY = re.compile(r"([^\s,=]+)=")
_THROUGHPUT_FIX = (
    "Lightning's ThroughputMonitor counts batches, samples and time from each attempt's start, "
    "and saves none of it. It is not part of the training: leave it out of what you rehearse."
)


def compare_loggers(expected: Run, found: Run, left_out: Collection[str]) -> list[Difference]:
    """Compare what the loggers of two runs have written into their directories.

    Args:
        expected: The run that nothing has happened to.
        found: The run that was resumed.
        left_out: Names of logged values that are not compared.
    """
    differences = [*_compare_curves(expected, found, left_out)]
    tables = sorted(path.relative_to(expected.directory) for path in _tables(expected))
    for table in tables:
        words = _compare_tables(expected.directory / table, found.directory / table, left_out)
        if words:
            differences.append(Difference("logger", f"{table} {words}.", _fix(_KEY.findall(words))))
    return differences


def differing_names(expected: Run, found: Run) -> set[str]:
    """Return the names of what loggers have written otherwise in another undisturbed run.

    Callbacks hand times and loads of the machine to loggers alone, so no step has them.

    Args:
        expected: One run that nothing has happened to.
        found: Another run of the same program.
    """
    own, others = read_curves(expected, []), read_curves(found, [])
    curves = {name: _compare_curve(own[name], others.get(name, Curve())) for name in own}
    names = {name.rpartition(": ")[2] for name, words in curves.items() if words}
    for path in _tables(expected):
        table = found.directory / path.relative_to(expected.directory)
        if table.is_file():
            columns, other = _columns(path), _columns(table)
            names |= {name for name in columns if columns[name] != other.get(name)}
    return names - _ALWAYS


def _tables(run: Run) -> Iterator[Path]:
    own = run.launch_directory
    return (path for path in run.directory.rglob(TABLE) if not path.is_relative_to(own))


def _compare_curves(expected: Run, found: Run, left_out: Collection[str]) -> Iterator[Difference]:
    notes: list[str] = []
    own, others = read_curves(expected, notes), read_curves(found, notes)
    for name in sorted(own):
        if name.rpartition(": ")[2] in left_out:
            continue
        words = _compare_curve(own[name], others.get(name, Curve()))
        if words:
            yield Difference("logger", f"The curve {name} {words}.", _fix([name]))


def _fix(names: Iterable[str]) -> str:
    """Return what to do about a difference in logged values of these names."""
    own = set(names) - _ALWAYS
    return _THROUGHPUT_FIX if own and all(map(_OF_THROUGHPUT.fullmatch, own)) else _FIX


def _compare_curve(expected: Curve, found: Curve) -> str:
    steps, others = Counter(expected.steps), Counter(found.steps)
    if words := _count(steps, others, "step"):
        return words
    pairs = zip(expected.steps, expected.values, found.values, strict=True)
    for step, value, other in pairs:
        if value != other and not (math.isnan(value) and math.isnan(other)):
            return f"has {other:g} at step {step:g} instead of {value:g}"
    return ""


def _count(expected: "Counter[T]", found: "Counter[T]", what: str) -> str:
    lost, doubled = expected - found, found - expected
    words = [f"has lost {what} {_first(lost)}"] if lost else []
    words += [f"has {what} {_first(doubled)} once too often"] if doubled else []
    return " and ".join(words)


def _first(found: "Counter[T]") -> str:
    each: object = next(iter(found))
    return f"{each:g}" if isinstance(each, float) else str(each)


def _compare_tables(expected: Path, found: Path, left_out: Collection[str]) -> str:
    if not found.is_file():
        return "is missing"
    return _count(Counter(_lines(expected, left_out)), Counter(_lines(found, left_out)), "row")


def _lines(path: Path, left_out: Collection[str]) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            kept = {str(k): v for k, v in row.items() if k not in left_out and v}
            if kept.keys() - _ALWAYS:
                yield ", ".join(f"{key}={kept[key]}" for key in sorted(kept))


def _columns(path: Path) -> dict[str, "Counter[str]"]:
    """Return the steps and values of each column of a table."""
    columns: dict[str, Counter[str]] = {}
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        for row in csv.DictReader(file):
            for key, value in filter(itemgetter(1), row.items()):
                columns.setdefault(str(key), Counter())[f"{row.get('step')}: {value}"] += 1
    return columns
