"""The rows of a dataset are checked once, when it is opened, in words that name the place."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from damage import DATA, ROWS, STATS, edit, refusal, replaced

from getiaction.data import DatasetError, LeRobotDataModule, LeRobotDataset
from getiaction.data.rows import Rows, check_counters, check_rate, finite_rows, odd_times


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("action", [0.0, math.nan], '"action" .* nan in episode 1, frame 5, dimension 1'),
        ("observation.state", [math.inf, 0.0], '"observation.state" .* inf .* dimension 0'),
        ("next.reward", -math.inf, '"next.reward" .* -inf in episode 1, frame 5 '),
        ("timestamp", math.nan, '"timestamp" .* nan in episode 1, frame 5'),
    ],
)
def test_numbers_that_are_not_finite_are_named(
    v30: Path, key: str, value: object, found: str
) -> None:
    """One NaN among finite statistics is named with episode, frame and dimension, and the fix."""
    edit(v30, key, replaced(45, value))
    message = refusal(v30)
    assert "1 of 300 frames, in 1 episodes" in message
    assert 'non_finite="drop"' in message
    with pytest.raises(DatasetError, match=found):
        LeRobotDataset(root=v30, episodes=[1, 2])
    LeRobotDataset(root=v30, episodes=[0, 2])


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_numbers_of_every_width_are_checked(v30: Path, kind: pa.DataType) -> None:
    """A NaN of any width is found, and so is a number that float32 cannot hold."""
    table = pq.read_table(v30 / ROWS)
    rows = np.zeros((300, 2), np.float64)
    rows[7, 1] = math.nan if kind != pa.float64() else 1e300
    values = pa.array(list(rows.astype(kind.to_pandas_dtype())), pa.list_(kind))
    pq.write_table(table.set_column(1, "action", values), v30 / ROWS)
    assert "in episode 0, frame 7, dimension 1" in refusal(v30)


def test_frames_that_are_left_out_cut_their_episode(v30: Path) -> None:
    """With "drop", windows never reach the frame: they are padded as at an episode's end."""
    edit(v30, "action", replaced(45, [math.nan, 0.0]))
    edit(v30, "observation.state", replaced(47, [0.0, math.inf]))
    plain = LeRobotDataset(root=DATA / "pusht_like_v30")
    with pytest.warns(UserWarning, match=r"in episode 1, frame 7, dimension 1\. Left out 2 of 300"):
        dataset = LeRobotDataset(root=v30, non_finite="drop")
    dataset.delta_indices = {"action": [-1, 0, 1, 2], "observation.image": [0, 1]}
    assert len(dataset) == 298
    frames = [int(dataset[i]["frame_index"]) for i in range(40, 48)]
    assert frames == [0, 1, 2, 3, 4, 6, 8, 9]
    before, alone, after = (dataset[i] for i in (44, 45, 46))
    assert before["action_is_pad"].tolist() == [False, False, True, True]
    assert alone["action_is_pad"].tolist() == [True, False, True, True]
    assert after["action_is_pad"].tolist() == [True, False, False, False]
    assert torch.equal(before["observation.image"][1], plain[44]["observation.image"])
    assert torch.equal(after["observation.image"][1], plain[49]["observation.image"])
    assert all(dataset[i]["action"].isfinite().all() for i in range(len(dataset)))


@pytest.mark.parametrize(("non_finite", "frames"), [("drop", 299), ("keep", 300)])
def test_statistics_are_finite_whatever_is_kept(v30: Path, non_finite: Any, frames: int) -> None:
    """Stored statistics with NaN are computed again, without the numbers that are not finite."""
    edit(v30, "action", replaced(45, [math.nan, 0.0]))
    stats = json.loads((v30 / STATS).read_text())
    stats["action"]["mean"] = [math.nan, 0.0]
    (v30 / STATS).write_text(json.dumps(stats))
    dataset = LeRobotDataset(root=v30, non_finite=non_finite)
    assert len(dataset) == frames
    rows = np.array(pq.read_table(v30 / ROWS)["action"].to_pylist())
    expected = np.nanmean(np.delete(rows, 45, axis=0) if frames == 299 else rows, axis=0)
    assert dataset.stats["action"]["mean"] == pytest.approx(expected)
    assert np.isfinite(dataset.stats["action"]["std"]).all()


def test_a_dataset_without_any_finite_frame_is_refused(v30: Path) -> None:
    """Nothing to train on is an error, also with "drop"."""
    edit(v30, "action", lambda rows: [[math.nan, 0.0]] * len(rows))
    assert "300 of 300 frames" in refusal(v30, non_finite="drop")
    (v30 / STATS).unlink()
    assert "in every row of a dimension" in refusal(v30, non_finite="keep")


def test_the_datamodule_refuses_in_setup_and_drops_on_request(v30: Path) -> None:
    """The check is made before training, in every part of a split."""
    edit(v30, "action", replaced(45, [math.nan, 0.0]))
    with pytest.raises(DatasetError, match="episode 1, frame 5"):
        LeRobotDataModule(root=v30, val_split=0.5).setup()
    data = LeRobotDataModule(root=v30, val_split=0.5, non_finite="drop")
    data.setup()
    assert data.train_dataset is not None
    assert data.val_dataset is not None
    assert len(data.train_dataset) + len(data.val_dataset) == 299


@pytest.mark.parametrize("argument", ["non_finite", "depth_output_unit"])
def test_unknown_options_are_refused(argument: str) -> None:
    """A misspelt option names the known ones, before anything is read."""
    for make in (LeRobotDataset, LeRobotDataModule):
        with pytest.raises(DatasetError, match=f"{argument} must be one of .*, got 'droop'"):
            make(root="nowhere", **{argument: "droop"})


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("action", None, "1 values are missing, the first in episode 1, frame 5"),
        ("action", [1.0, None], "1 values are missing, the first in episode 1, frame 5"),
        ("action", [1.0], "episode 1, frame 5 has 1 numbers instead of 2"),
        ("action", [1.0, 2.0, 3.0], "episode 1, frame 5 has 3 numbers instead of 2"),
        ("action", [], "episode 1, frame 5 has 0 numbers instead of 2"),
        ("episode_index", None, "1 values are missing, the first in episode None, frame 5"),
    ],
)
def test_missing_values_and_ragged_rows_are_named(
    v30: Path, key: str, value: object, problem: str
) -> None:
    """A row with too few or too many numbers is named, even if the total fits."""
    edit(v30, key, replaced(45, value))
    if value == [1.0]:  # the next row makes up for it
        edit(v30, key, replaced(46, [1.0, 2.0, 3.0]))
    message = refusal(v30)
    assert f'{v30 / ROWS}: column "{key}" does not hold' in message
    assert problem in message


def test_nested_rows_are_named(tmp_path: Path) -> None:
    """The same holds for matrices."""
    root = Path(shutil.copytree(DATA / "many_features_v30", tmp_path / "many"))
    table = pq.read_table(root / ROWS)
    place = table.column_names.index("observation.matrix")
    rows = [[[1.0] * 4] * 4 for _ in range(len(table))]
    for ragged, problem in (
        ([[1.0] * 4] * 3, "frame 2 has 12 numbers instead of 16"),
        ([[1.0] * 4] * 3 + [None], "1 values are missing, the first in episode 0, frame 2"),
        ([[1.0] * 4] * 3 + [[1.0, None]], "1 values are missing, the first in episode 0, frame 2"),
    ):
        rows[2] = ragged
        column = pa.array(rows, pa.list_(pa.list_(pa.float32())))
        pq.write_table(table.set_column(place, "observation.matrix", column), root / ROWS)
        assert problem in refusal(root)


@pytest.mark.parametrize("key", ["frame_index", "index"])
@pytest.mark.parametrize("change", [1, -1, 5])
def test_rows_that_are_not_counted_are_named(v30: Path, key: str, change: int) -> None:
    """A repeated, missing or misplaced number is named with its episode."""
    edit(v30, key, lambda rows: replaced(45, rows[45] + change)(rows))
    message = refusal(v30)
    assert f'"{key}" of episode 1 is' in message
    assert f"{45 + change if key == 'index' else 5 + change}" in message


def test_a_task_without_text_is_named_with_its_first_frame(v30: Path) -> None:
    """A task_index that is out of range is named with the place that has it."""
    edit(v30, "task_index", replaced(45, 9))
    assert "no task has task_index [9], which the data have first in episode 1, frame 5" in refusal(
        v30
    )


def test_a_million_rows_are_checked_in_whole_columns() -> None:
    """The checks call no Python code per row, so a million of them pass at once."""
    n = 1_000_000
    episode, frame = np.divmod(np.arange(n), 500)
    rows = Rows(Path(), episode, frame, (frame / 30).astype(np.float32).astype(np.float64))
    columns = {
        "action": np.zeros((n, 14), np.float32),
        "frame_index": frame,
        "index": np.arange(n),
    }
    check_counters(rows, columns)
    kept, _ = finite_rows(rows, columns, "error")
    assert kept.all()
    check_rate(rows, 30, kept)
    assert odd_times(rows, 30, 1e-4, kept) == []
