"""The times of rows and frames are checked once, when a dataset is opened."""

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from damage import DATA, EPISODES, INFO, ROWS, edit, edit_info, refusal

from getiaction.data import LeRobotDataset


def test_wall_clock_times_are_explained(v30: Path) -> None:
    """Seconds since 1970 do not fit the video; the message names the column and what to write."""
    start = 1_764_000_000.0
    retime(v30, lambda episode, frame: start + 100 * episode + frame / 10)
    message = refusal(v30)
    assert '"timestamp" of episode 0, frame 0 is 1764000000.000000 s' in message
    assert "frame_index / fps is 0.000000 s" in message
    assert "Write timestamp = frame_index / 10" in message


def test_wall_clock_times_do_not_matter_without_videos(images: Path) -> None:
    """Steps are measured in float64, in which seconds since 1970 have the right distance."""
    retime(images, lambda episode, frame: 1_764_000_000.0 + 100 * episode + frame / 7)
    sample = LeRobotDataset(root=images)[1]
    assert sample["timestamp"].dtype == torch.float32


def test_wall_clock_times_in_float32_are_explained(images: Path) -> None:
    """Times that float32 has made equal are named, instead of an impossible rate."""
    retime(images, lambda _, frame: 1_764_000_000.0 + frame / 7, pa.float32())
    message = refusal(images)
    assert '"timestamp" does not increase: episode 0, frame 0 is at' in message
    assert "Write timestamp = frame_index / 7" in message


@pytest.mark.parametrize(
    ("drift", "frame"),
    [
        (lambda frame: frame / 10 * 1.002, 47),
        (lambda frame: frame / 10 + (0.03 if frame == 17 else 0), 17),
        (lambda frame: frame / 10 + 0.05, 0),
    ],
    ids=["stretched", "one frame", "shifted"],
)
def test_times_that_drift_are_found_at_once(
    v30: Path, drift: Callable[[int], float], frame: int
) -> None:
    """A time that the video does not have is named, although no such sample was read."""
    retime(v30, lambda episode, number: drift(number) if episode == 2 else number / 10)
    message = refusal(v30)
    assert f'"timestamp" of episode 2, frame {frame} is {drift(frame):.6f} s' in message
    assert f"{v30 / 'videos/observation.image/chunk-000/file-000.mp4'} has no frame at" in message
    LeRobotDataset(root=v30, tolerance_s=0.06)
    LeRobotDataset(root=v30, episodes=[0, 1])


def test_unusual_times_that_the_video_has_are_accepted(v30: Path) -> None:
    """Rows may start late, as after cutting, if the video has their frames."""
    retime(v30, lambda _, frame: (frame + 1) / 10)
    edit(v30, "length", lambda rows: [*rows[:-1], rows[-1] - 1], EPISODES)
    pq.write_table(pq.read_table(v30 / ROWS).slice(0, 299), v30 / ROWS)
    edit_info(v30, lambda info: info.update(total_frames=299))
    plain = LeRobotDataset(root=DATA / "pusht_like_v30")
    found = LeRobotDataset(root=v30)[3]["observation.image"]
    assert torch.equal(found, plain[4]["observation.image"])


@pytest.mark.parametrize(
    ("rate", "fix"), [(10.5, '"fps": 10.5'), (29.98, '"fps": 30'), (0.4, '"fps": 0.4')]
)
def test_another_rate_is_named(images: Path, rate: float, fix: str) -> None:
    """The fix is a rate that can be pasted."""
    retime(images, lambda _, frame: frame / rate)
    message = refusal(images)
    assert f"{images / INFO}: fps is 7, but" in message
    assert f"Write {fix}" in message


@pytest.mark.parametrize("fps", [None, 0, -1.5, math.nan, math.inf, "30", [30], True])
def test_a_rate_that_is_no_rate_is_refused_with_the_fix(v30: Path, fps: object) -> None:
    """Nulls, texts, booleans and what is not finite are refused."""
    edit_info(v30, lambda info: info.update(fps=fps))
    message = refusal(v30)
    assert f"fps must be a positive number, got {fps!r}" in message
    assert '"fps": 30' in message


@pytest.mark.parametrize("delta", [math.nan, math.inf])
def test_offsets_that_are_not_finite_are_refused(v30: Path, delta: float) -> None:
    """NaN and infinity are refused as offsets, and the error names them."""
    message = refusal(v30, delta_timestamps={"action": [0.0, delta]})
    assert f'delta_timestamps["action"]: [{delta}] are not offsets' in message


def retime(
    root: Path, time_s: Callable[[int, int], float], kind: pa.DataType | None = None
) -> None:
    """Write other timestamps, as float64 unless another type is given."""
    kind = kind or pa.float64()
    table = pq.read_table(root / ROWS)
    pairs = zip(table["episode_index"].to_pylist(), table["frame_index"].to_pylist(), strict=True)
    column = pa.array([time_s(*pair) for pair in pairs], kind)
    place = table.column_names.index("timestamp")
    pq.write_table(table.set_column(place, "timestamp", column), root / ROWS)
    edit_info(
        root, lambda info: info["features"]["timestamp"].update(dtype=f"float{kind.bit_width}")
    )
