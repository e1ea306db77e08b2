"""The curves that a run's loggers have written: TensorBoard's event files, or ``metrics.csv``.

Event files are framed here and not by TensorBoard's own loader, which opens whatever has the name,
a FIFO too, and computes each checksum in Python: a run of a million steps would take minutes. The
records themselves are parsed by TensorBoard's classes.
"""

import csv
import io
import math
import os
import struct
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from getiaction_launch.errors import RecordError, StorageError
from getiaction_launch.report.contents.links import check_inside
from getiaction_launch.run.reading.segments import StoredFile, read_segments, stored_files
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import is_remote
from getiaction_launch.storage.tree import find
from getiaction_launch.storage.untrusted import open_regular

_LIMIT_BYTES = 16 << 20
_MOST_FILES = 2000
_MOST_FOLDERS = 2000
_MOST_CURVES = 500
_MOST_POINTS = 20_000_000
_DEEPEST = 4
_LARGEST_REMOTE_BYTES = 1 << 30
_NOT_CURVES = {"epoch", "step", "hp_metric"}
_FLOAT, _DOUBLE = 1, 2
_START = 1
_EVENTS, _TABLE = ".tfevents.", "metrics.csv"


@dataclass
class Curve:
    """The values of one metric, in the order of their steps.

    Attributes:
        steps: The step of each value, as its logger counts them.
        values: The values, which may be NaN or infinite.
        times: When each was logged, in seconds since the epoch; empty if the logger wrote no times.
        lost: Steps and values that a later attempt has trained again.
    """

    steps: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    times: "array[float]" = field(default_factory=lambda: array("d"))
    lost: list[tuple[list[float], list[float]]] = field(default_factory=list)

    def add(self, step: float, value: float, time: float | None) -> None:
        """Append a value; if training has gone back to an earlier step, cut the later ones off."""
        if self.steps and step <= self.steps[-1]:
            self.cut(step)
        self.steps.append(step)
        self.values.append(value)
        if time is not None:
            self.times.append(time)

    def cut(self, step: float) -> None:
        """Take the values of this step and later ones out: they are trained again."""
        start = len(self.steps)
        while start and self.steps[start - 1] >= step:
            start -= 1
        if len(self.steps) - start > 1:
            self.lost.append((list(self.steps[start:]), list(self.values[start:])))
        del self.steps[start:], self.values[start:], self.times[start:]


@dataclass(frozen=True)
class _File:
    """A logger's file, as found in the run's directory, and how it lies on remote storage."""

    path: Path
    place: str
    stored: StoredFile | None = None

    @property
    def name(self) -> str:
        return self.path.name


def read_curves(run: Run, notes: list[str]) -> dict[str, Curve]:
    """Read all curves of a run by the names of their metrics.

    TensorBoard's files are preferred, since they say when each value was logged.

    Args:
        run: The run whose directory is read.
        notes: Gets a sentence for each file that cannot be read to its end.

    Raises:
        StorageError: If remote storage does not answer.
    """
    files = sorted(_files(run, notes), key=lambda file: (file.place, file.name))
    events = [file for file in files if _EVENTS in file.name]
    curves = _read_places(run, events, _read_events, notes)
    if curves:
        return curves
    tables = [file for file in files if file.name == _TABLE]
    return _read_places(run, tables, _read_table, notes)


def last_values(curves: Mapping[str, Curve]) -> Progress:
    """Return the last value of each curve, as the progress of a run that has reported none."""
    return Progress(metrics={name: curve.values[-1] for name, curve in curves.items()})


def _files(run: Run, notes: list[str]) -> list[_File]:
    directory = run.directory
    if is_remote(directory):
        stored = stored_files(run, find(directory).sizes)
        found = [_File(directory / f.path, f.path.rpartition("/")[0], f) for f in stored]
        kept = [file for file in found if _is_logged(file.name) and not _is_ours(file.place)]
    else:
        kept = list(_walk(directory))
    if len(kept) > _MOST_FILES:
        notes.append(f"Only the first {_MOST_FILES} of {len(kept)} files of loggers were read.")
    return kept[:_MOST_FILES]


def _walk(directory: Path) -> Iterator[_File]:
    for visited, (at, folders, names) in enumerate(os.walk(directory)):  # it follows no links
        place = os.path.relpath(at, directory)
        is_deep = place != "." and place.count("/") >= _DEEPEST
        folders[:] = [] if is_deep or visited > _MOST_FOLDERS else sorted(folders)
        if _is_ours(place):
            folders[:] = []
            continue
        for name in filter(_is_logged, names):
            yield _File(Path(at, name), "" if place == "." else place)


def _is_logged(name: str) -> bool:
    return _EVENTS in name or name == _TABLE


def _is_ours(place: str) -> bool:
    return place.partition("/")[0] in ("launch", "checkpoints")


def _read_places(
    run: Run,
    files: list[_File],
    read: Callable[[BinaryIO, dict[str, Curve]], None],
    notes: list[str],
) -> dict[str, Curve]:
    """Read the files of each directory as one history; with several, names have the directory."""
    histories: dict[str, dict[str, Curve]] = {}
    for file in files:
        history = histories.setdefault(file.place, {})
        try:
            check_inside(run, file.path)
            for opened in _opened(run, file):
                read(opened, history)
        except StorageError:
            raise
        except (RecordError, OSError) as error:
            what = error.what if isinstance(error, RecordError) else str(error)
            notes.append(f"{what.rstrip('.')}; its curves may be cut short.")
        except _DamagedError as error:
            notes.append(f"{file.path}: {error}; its curves may be cut short.")
    histories = {place: history for place, history in histories.items() if history}
    if len(histories) == 1:
        return next(iter(histories.values()))
    return {
        f"{place}: {name}" if place else name: curve
        for place, history in histories.items()
        for name, curve in history.items()
    }


class _DamagedError(Exception):
    """A file of a logger that cannot be read any further, with the reason."""


def _opened(run: Run, file: _File) -> Iterator[BinaryIO]:
    """Yield the file or, one after the other, its segments, each of which ends with a record."""
    if file.stored is None:
        with open_regular(file.path) as opened:
            yield opened
        return
    if max(file.stored.segments.values()) > _LARGEST_REMOTE_BYTES:
        raise _DamagedError("it is larger than 1 GiB, and was not downloaded")
    yield from map(io.BytesIO, read_segments(run, file.stored))


def _read_events(file: BinaryIO, curves: dict[str, Curve]) -> None:
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event

    for content in _records(file):
        try:
            event = Event.FromString(content)
        except DecodeError:
            raise _DamagedError("it is not an event file, or is damaged") from None
        if event.session_log.status == _START and event.step > 0:
            for curve in curves.values():
                curve.cut(event.step)
        for entry in event.summary.value:
            value = _scalar(entry)
            if value is not None:
                _add(curves, entry.tag, event.step, value, event.wall_time)


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Read TFRecords: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    while len(header := file.read(12)) == 12:  # noqa: PLR2004 - as above
        (length,) = struct.unpack("<Q", header[:8])
        if length > _LIMIT_BYTES:
            raise _DamagedError("one of its records is larger than 16 MiB, or it is damaged")
        content = file.read(length + 4)
        if len(content) < length + 4:
            return  # it is being written
        yield content[:-4]


def _scalar(entry: Any) -> float | None:  # noqa: ANN401 - a message of protobuf
    kind = entry.WhichOneof("value")
    if kind == "simple_value":
        return float(entry.simple_value)
    if kind != "tensor" or any(dim.size != 1 for dim in entry.tensor.tensor_shape.dim):
        return None
    tensor = entry.tensor
    form = {_FLOAT: "<f", _DOUBLE: "<d"}.get(tensor.dtype)
    if form is None:
        return None
    if len(tensor.tensor_content) == struct.calcsize(form):
        return float(struct.unpack(form, tensor.tensor_content)[0])
    values = tensor.float_val if tensor.dtype == _FLOAT else tensor.double_val
    return float(values[0]) if len(values) == 1 else None


def _read_table(file: BinaryIO, curves: dict[str, Curve]) -> None:
    rows = csv.reader(io.TextIOWrapper(file, encoding="utf-8", errors="replace", newline=""))
    try:
        header = next(rows, [])
        if "step" not in header:
            raise _DamagedError("it has no column 'step'")
        at = header.index("step")
        for row in rows:
            _add_row(curves, header, row, at)
    except csv.Error as error:
        raise _DamagedError(f"it is not a table: {error}") from None


def _add_row(curves: dict[str, Curve], header: list[str], row: list[str], at: int) -> None:
    step = _float(row[at]) if at < len(row) else None
    if step is None:
        return
    for name, text in zip(header, row, strict=False):
        value = _float(text)
        if value is not None and name not in _NOT_CURVES:
            _add(curves, name, step, value, None)


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _add(
    curves: dict[str, Curve], name: str, step: float, value: float, time: float | None
) -> None:
    if name in _NOT_CURVES or (name not in curves and len(curves) >= _MOST_CURVES):
        return
    if not math.isfinite(step) or not math.isfinite(time or 0):
        return
    curve = curves.setdefault(name, Curve())
    if len(curve.steps) >= _MOST_POINTS // max(1, len(curves)):
        raise _DamagedError("it has more values than can be read")
    curve.add(step, value, time)


def longest(curves: Iterable[Curve]) -> Curve | None:
    """Return the curve with the most values that have times; None if there is none."""
    timed = [curve for curve in curves if len(curve.times) == len(curve.steps) > 1]
    return max(timed, key=lambda curve: len(curve.steps), default=None)
