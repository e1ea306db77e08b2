"""Checks of a dataset's rows, made once when it is opened: order, finite numbers, and times.

All of them work on whole columns, so that they take a second for a million rows, and each message
names the episode and the frame.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from getiaction.data.errors import DatasetError
from getiaction.data.metadata import Metadata

NonFinite = Literal["error", "drop", "keep"]

MAX_FPS_ERROR = 0.05
MAX_ROUNDING = 0.01
MAX_PROBES = 8


@dataclass(frozen=True)
class Rows:
    """The columns that say where each of N rows belongs, each (N,).

    Attributes:
        root: Local folder of the dataset, for messages.
        episode: Index of the row's episode.
        frame: Number of the row's frame in that episode.
        times_s: Time of the row in seconds from the start of the episode.
    """

    root: Path
    episode: NDArray[np.int64]
    frame: NDArray[np.int64]
    times_s: NDArray[np.float64]

    def place(self, row: int | np.integer[Any]) -> str:
        """Name a row in a message.

        Args:
            row: Number of the row, from 0.
        """
        return f"episode {self.episode[row]}, frame {self.frame[row]}"


def read_rows(root: Path, columns: Mapping[str, Any]) -> Rows:
    """Collect the columns that say where each row belongs.

    Args:
        root: Local folder of the dataset.
        columns: All columns by key, as `getiaction.data.columns.load_columns` returns them.

    Raises:
        DatasetError: One of the columns does not have one number per row.
    """
    names = ("episode_index", "frame_index", "timestamp")
    for name in names:
        if columns[name].size != len(columns[name]):
            msg = f'{root / "data"}: "{name}" must be one number per row. Write the data again.'
            raise DatasetError(msg)
    return Rows(root, *(columns[name].reshape(-1) for name in names))


def check_episodes_complete(rows: Rows, metadata: Metadata, episodes: Sequence[int]) -> None:
    """Check that the rows are those of the given episodes, each complete and in order.

    Args:
        rows: All rows that were read.
        metadata: Metadata of the dataset.
        episodes: Indices of the episodes that were asked for.

    Raises:
        DatasetError: An episode has too few or too many rows, or they are not in order.
    """
    numbers, counts = np.unique(rows.episode, return_counts=True)
    found = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    chosen = set(episodes)
    for episode in sorted(chosen | found.keys()):
        place = metadata.episodes.get(episode)
        wanted = place.length if place and episode in chosen else 0
        if wanted != found.get(episode, 0):
            msg = (
                f"{rows.root / (place.data_file if place else 'data')} has "
                f"{found.get(episode, 0)} rows of episode {episode}, but meta/ lists "
                f"{wanted}. Restore data/ and meta/ from the same copy."
            )
            raise DatasetError(msg)
    starts = np.flatnonzero(np.diff(rows.episode, prepend=-1))
    if len(starts) != len(found):
        msg = f"{rows.root / 'data'}: the rows of an episode are not contiguous. Restore data/."
        raise DatasetError(msg)


def check_counters(rows: Rows, columns: Mapping[str, Any]) -> None:
    """Check that "frame_index" and "index" count the rows of each episode.

    Args:
        rows: All rows that were read.
        columns: All columns by key.

    Raises:
        DatasetError: A number is repeated, left out or out of order.
    """
    inside = np.diff(rows.episode) == 0
    for name in ("frame_index", "index"):
        numbers = columns[name].reshape(len(rows.episode), -1)[:, 0]
        odd = np.flatnonzero((np.diff(numbers) != 1) & inside)
        if odd.size:
            row = odd[0] + 1
            msg = (
                f'{rows.root / "data"}: "{name}" of episode {rows.episode[row]} is {numbers[row]} '
                f"after {numbers[row - 1]}, but must count the rows of an episode without gap or "
                "repetition. Restore data/, or number the rows again in the order of recording."
            )
            raise DatasetError(msg)


def check_tasks(rows: Rows, task_index: NDArray[np.int64], tasks: Mapping[int, str]) -> None:
    """Check that every row has a task with a text.

    Args:
        rows: All rows that were read.
        task_index: Index of each row's task.
        tasks: Text of each task by index.

    Raises:
        DatasetError: A task has no text.
    """
    with_text = [index for index, text in tasks.items() if isinstance(text, str)]
    known = np.isin(task_index.reshape(-1), with_text)
    if not known.all():
        unknown = sorted(set(task_index.reshape(-1)[~known].tolist()))
        msg = (
            f"{rows.root / 'meta'}: no task has task_index {unknown}, which the data have first in "
            f"{rows.place(np.argmin(known))}. Add its text to the list of tasks."
        )
        raise DatasetError(msg)


def finite_rows(
    rows: Rows, columns: Mapping[str, Any], non_finite: NonFinite
) -> tuple[NDArray[np.bool_], str]:
    """Find the rows in which every action, observation and reward is finite.

    Args:
        rows: All rows that were read.
        columns: All columns by key.
        non_finite: What to do about the others: "error", "drop" or "keep".

    Returns:
        Whether each row is to be kept, (N,), and a description of those that are not, for a
        warning; the latter is empty if there are none.

    Raises:
        DatasetError: A number is not finite, and `non_finite` does not allow that.
    """
    kept = np.ones(len(rows.episode), np.bool_)
    first = ""
    for key, column in columns.items():
        used = key == "next.reward" or key.split(".")[0] in {"action", "observation", "timestamp"}
        if not used or not isinstance(column, np.ndarray) or column.dtype.kind != "f":
            continue
        numbers = column.reshape(len(column), -1)
        finite = np.isfinite(numbers)
        whole = finite.all(axis=1)
        if whole.all() or (non_finite == "keep" and key != "timestamp"):
            continue
        row = int(np.argmin(whole))
        dimension = int(np.argmin(finite[row]))
        where = f", dimension {dimension}" if column.ndim > 1 else ""
        value = f"it is {numbers[row, dimension]} in {rows.place(row)}{where}"
        first = first or f'"{key}" holds numbers that are not finite: {value}'
        kept &= whole
    bad = int((~kept).sum())
    if not bad:
        return kept, ""
    episodes = len(np.unique(rows.episode[~kept]))
    count = f"{bad} of {len(kept)} frames, in {episodes} episodes"
    if non_finite != "drop" or bad == len(kept):
        msg = (
            f"{rows.root}: {first} (and so on in {count}). Correct the data, leave these frames "
            'out with non_finite="drop", or pass other episodes.'
        )
        raise DatasetError(msg)
    return kept, f"{rows.root}: {first}. Left out {count}."


class Pieces:
    """The rows that samples are made of, in P pieces that no window leaves.

    A piece is an episode, or what lies between rows of it that are left out: a window ends before
    a gap as at the end of an episode. There are few pieces, so that the rows need no index in the
    memory of each process.

    Args:
        starts: First row of each piece, (P,).
        ends: Row after the last of each piece, (P,).
    """

    def __init__(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
        self.starts, self.ends = starts, ends
        self._totals = np.cumsum(ends - starts)

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._totals[-1]) if self._totals.size else 0

    def row(self, sample: int) -> int:
        """Return the row of a sample.

        Args:
            sample: Number of the sample, from 0.
        """
        piece = int(np.searchsorted(self._totals, sample, side="right"))
        return int(self.ends[piece] + sample - self._totals[piece])

    def all_rows(self) -> NDArray[np.int64]:
        """Return the row of every sample, (N,)."""
        lengths = self.ends - self.starts
        return np.arange(len(self)) + np.repeat(self.ends - self._totals, lengths)

    def windows(
        self, rows: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the rows around each row, (B, T), and which of them repeat an end of its piece.

        Args:
            rows: B rows of samples.
            offsets: T distances from each of them.
        """
        pieces = np.searchsorted(self.starts, rows, side="right") - 1
        first, end = self.starts[pieces, None], self.ends[pieces, None]
        wanted = rows[:, None] + offsets
        return np.clip(wanted, first, end - 1), (wanted < first) | (wanted >= end)

    def of_episodes(self, episode: NDArray[np.int64], episodes: Sequence[int]) -> "Pieces":
        """Return the pieces of some episodes.

        Args:
            episode: Index of each row's episode.
            episodes: Indices of the episodes.
        """
        chosen = np.isin(episode[self.starts], list(episodes))
        return Pieces(self.starts[chosen], self.ends[chosen])


def find_pieces(episode: NDArray[np.int64], kept: NDArray[np.bool_]) -> Pieces:
    """Find the pieces of the rows that are kept.

    Args:
        episode: Index of each row's episode, (N,).
        kept: Whether each row is kept, (N,).
    """
    rows = np.flatnonzero(kept)
    is_start = (np.diff(episode[rows], prepend=-1) != 0) | (np.diff(rows, prepend=-2) != 1)
    starts = np.flatnonzero(is_start)
    ends = np.append(starts[1:], len(rows))[: len(starts)]
    return Pieces(rows[starts], rows[ends - 1] + 1)


def check_rate(rows: Rows, fps: float, kept: NDArray[np.bool_]) -> None:
    """Check that timestamps are about 1/fps apart.

    Args:
        rows: All rows that were read.
        fps: Frames per second, from `meta/info.json`.
        kept: Whether each row is kept; the others may have any time.

    Raises:
        DatasetError: The usual distance is another one, or zero.
    """
    inside = np.flatnonzero((np.diff(rows.episode) == 0) & kept[1:] & kept[:-1])
    if not inside.size:
        return
    step_s = float(np.median(rows.times_s[inside + 1] - rows.times_s[inside]))
    if abs(step_s * fps - 1) <= MAX_FPS_ERROR:
        return
    file = rows.root / "meta" / "info.json"
    if step_s > 0 and 1 / step_s < 1e6:  # noqa: PLR2004 - no camera is that fast
        rate = 1 / step_s
        nearly_whole = round(rate) and abs(rate / round(rate) - 1) < MAX_ROUNDING
        fix = f'Write "fps": {round(rate) if nearly_whole else round(rate, 4)}'
        msg = (
            f"{file}: fps is {fps}, but the timestamps of the rows are {step_s:.4f} s apart. {fix},"
            f" or correct the timestamps: timestamp = frame_index / {fps}."
        )
    else:
        row = inside[0]
        msg = (
            f'{rows.root / "data"}: "timestamp" does not increase: {rows.place(row)} is at '
            f"{rows.times_s[row]} s and {rows.place(row + 1)} at {rows.times_s[row + 1]} s. "
            f"Write timestamp = frame_index / {fps}, the seconds since the start of the episode."
        )
    raise DatasetError(msg)


def odd_times(rows: Rows, fps: float, tolerance_s: float, kept: NDArray[np.bool_]) -> list[int]:
    """Find rows whose time is not frame_index / fps, and which a video may thus not have.

    Args:
        rows: All rows that were read.
        fps: Frames per second, from `meta/info.json`.
        tolerance_s: Largest difference that is allowed, in seconds.
        kept: Whether each row is kept; the others may have any time.

    Returns:
        The row with the largest difference of each of the first few episodes that have one.
    """
    times_s = np.where(kept, rows.times_s, 0.0)
    errors_s = np.abs(times_s - rows.frame / fps).round(6)
    # A float32 time is rounded, which exceeds the tolerance after some minutes.
    rounding_s = np.spacing(np.abs(times_s).astype(np.float32))
    odd = np.flatnonzero((errors_s > tolerance_s + rounding_s) & kept)
    _, firsts = np.unique(rows.episode[odd], return_index=True)
    pieces = np.split(odd, np.sort(firsts)[1:]) if odd.size else []
    return [int(piece[np.argmax(errors_s[piece])]) for piece in pieces[:MAX_PROBES]]
