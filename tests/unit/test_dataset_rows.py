"""Rows and metadata are checked once, when a dataset is opened, in words that name the place."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from getiaction.data import DatasetError, LeRobotDataModule, LeRobotDataset
from getiaction.data.rows import Rows, check_counters, check_rate, finite_rows, odd_times

DATA = Path(__file__).parents[1] / "data" / "lerobot"
INFO = "meta/info.json"
STATS = "meta/stats.json"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
ROWS = "data/chunk-000/file-000.parquet"


@pytest.fixture
def v30(tmp_path: Path) -> Path:
    """Give a v3.0 dataset with a video to damage."""
    return Path(shutil.copytree(DATA / "pusht_like_v30", tmp_path / "v30"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Give a v3.0 dataset without videos to damage."""
    return Path(shutil.copytree(DATA / "images_only_v30", tmp_path / "images"))


@pytest.fixture
def v21(tmp_path: Path) -> Path:
    """Give a v2.1 dataset to damage."""
    return Path(shutil.copytree(DATA / "aloha_like_v21", tmp_path / "v21"))


def refusal(root: Path, **kwargs: Any) -> str:
    """Return what opening a damaged dataset says, without reading a sample."""
    with pytest.raises(DatasetError) as caught:
        LeRobotDataset(root=root, **kwargs)
    return str(caught.value)


def edit(root: Path, key: str, change: Callable[[list[Any]], list[Any]], name: str = ROWS) -> None:
    """Change the values of one column of a parquet file."""
    table = pq.read_table(root / name)
    values = change(table[key].to_pylist())
    kind = table[key].type
    if pa.types.is_fixed_size_list(kind):
        kind = pa.list_(kind.value_type)
    column = pa.array(values, kind)
    pq.write_table(table.set_column(table.column_names.index(key), key, column), root / name)


def replaced(row: int, value: Any) -> Callable[[list[Any]], list[Any]]:
    """Return a change of one row's value."""
    return lambda values: [*values[:row], value, *values[row + 1 :]]


def edit_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change meta/info.json in place."""
    info = json.loads((root / INFO).read_text())
    change(info)
    (root / INFO).write_text(json.dumps(info))


# Numbers that are not finite, and values that are missing or too many


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


# Times


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
    """An offset that is no time is named."""
    message = refusal(v30, delta_timestamps={"action": [0.0, delta]})
    assert f'delta_timestamps["action"]: [{delta}] are not offsets' in message


# Order, counts and lists


@pytest.mark.parametrize("key", ["frame_index", "index"])
@pytest.mark.parametrize("change", [1, -1, 5])
def test_rows_that_are_not_counted_are_named(v30: Path, key: str, change: int) -> None:
    """A repeated, missing or misplaced number is named with its episode."""
    edit(v30, key, lambda rows: replaced(45, rows[45] + change)(rows))
    message = refusal(v30)
    assert f'"{key}" of episode 1 is' in message
    assert f"{45 + change if key == 'index' else 5 + change}" in message


def test_episodes_without_frames_are_passed_over(v30: Path) -> None:
    """An empty episode has no sample, no file and no place in a validation split."""
    table = pq.read_table(v30 / EPISODES)
    row = dict.fromkeys(table.column_names) | {"episode_index": 6, "length": 0}
    pq.write_table(
        pa.concat_tables([table, pa.Table.from_pylist([row], table.schema)]), v30 / EPISODES
    )
    edit_info(v30, lambda info: info.update(total_episodes=7))
    assert len(LeRobotDataset(root=v30)) == 300
    assert len(LeRobotDataset(root=v30, episodes=[5, 6])) == 60
    assert "episodes=[6] have no frames" in refusal(v30, episodes=[6])
    for seed in range(8):
        data = LeRobotDataModule(root=v30, val_split=0.2, val_split_seed=seed)
        data.setup()
        assert data.val_dataset is not None
        assert len(data.val_dataset) > 0


def test_episodes_without_frames_are_passed_over_in_v21(v21: Path) -> None:
    """The same holds for v2.1, whose empty episode has statistics of nothing."""
    lines = (v21 / "meta/episodes.jsonl").read_text() + '{"episode_index": 3, "length": 0}\n'
    (v21 / "meta/episodes.jsonl").write_text(lines)
    path = v21 / "meta/episodes_stats.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    empty = {
        key: {name: (np.array(v) * math.nan).tolist() for name, v in stats.items()} | {"count": [0]}
        for key, stats in last["stats"].items()
    }
    path.write_text(path.read_text() + json.dumps({"episode_index": 3, "stats": empty}) + "\n")
    edit_info(v21, lambda info: info.update(total_episodes=4))
    found, plain = (LeRobotDataset(root=root).stats for root in (v21, DATA / "aloha_like_v21"))
    assert found == plain


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (replaced(2, 1), "episode_index 1 twice"),
        (replaced(2, None), "the episode_index None"),
        (replaced(2, -1), "the episode_index -1"),
    ],
)
def test_a_wrong_list_of_episodes_is_explained(
    v30: Path, change: Callable[[list[Any]], list[Any]], problem: str
) -> None:
    """Repeated and absent numbers of episodes are named with their folder."""
    edit(v30, "episode_index", change, EPISODES)
    message = refusal(v30)
    assert f"{v30 / 'meta'} " in message
    assert problem in message


@pytest.mark.parametrize("length", [None, -3])
def test_a_wrong_length_is_explained(v30: Path, length: int | None) -> None:
    """A length that is no length is named with its episode."""
    edit(v30, "length", replaced(2, length), EPISODES)
    assert f"the length {length!r} of episode 2" in refusal(v30)


def test_a_task_without_text_is_named_with_its_first_frame(v30: Path) -> None:
    """A task_index that is out of range is named with the place that has it."""
    edit(v30, "task_index", replaced(45, 9))
    assert "no task has task_index [9], which the data have first in episode 1, frame 5" in refusal(
        v30
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda info: info.update(features=[]), "features must be an object"),
        (lambda info: info["features"].update(action=[2]), 'feature "action" needs a dtype'),
        (lambda info: info["features"]["action"].update(shape=["2"]), 'feature "action" needs'),
        (lambda info: info["features"]["action"].update(shape=[-2]), 'feature "action" needs'),
        (lambda info: info["features"]["action"].update(dtype=None), 'feature "action" needs'),
        (lambda info: info.update(total_frames="300"), "total_frames is '300'"),
        (lambda info: info.update(data_path="data/{nothing}.parquet"), "lacks 'nothing'"),
        (lambda info: info.update(data_path=5), "unknown form"),
        (lambda info: info.update(data_path="../../x.parquet"), 'the path "../../x.parquet"'),
        (lambda info: info.update(video_path="/etc/passwd"), 'the path "/etc/passwd"'),
    ],
)
def test_a_wrong_info_file_is_explained(
    v30: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    """Values of a wrong type, and paths that leave the dataset, are refused by name."""
    edit_info(v30, change)
    message = refusal(v30)
    assert problem in message
    assert str(v30 / "meta") in message


@pytest.mark.parametrize(
    "content", ["[5]", '{"action": 5}', '{"action": {"mean": [[1], 2]}}', '{"action": null}']
)
def test_statistics_of_an_unknown_form_are_not_used(v30: Path, content: str) -> None:
    """They are computed from the rows, or the file is named."""
    (v30 / STATS).write_text(content)
    if content == "[5]":
        assert str(v30 / "meta") in refusal(v30)
    else:
        expected = LeRobotDataset(root=DATA / "pusht_like_v30").stats["action"]
        assert LeRobotDataset(root=v30).stats["action"]["mean"] == pytest.approx(expected["mean"])


@pytest.mark.parametrize("size", [0, 8, 20_000])
def test_an_incomplete_video_is_found_at_once(v30: Path, size: int) -> None:
    """A video that is cut anywhere is named although none of its frames was read."""
    video = next((v30 / "videos").rglob("*.mp4"))
    content = video.read_bytes()
    video.write_bytes(content[: len(content) - 9] if size == 20_000 else content[:size])
    assert f"{video} cannot be decoded" in refusal(v30)
    LeRobotDataset(root=v30, download_videos=False)


def test_an_empty_data_file_is_named(v30: Path) -> None:
    """A parquet file of no bytes is named."""
    (v30 / ROWS).write_bytes(b"")
    assert f"{v30 / ROWS} is damaged" in refusal(v30)


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
    assert finite_rows(rows, columns, "error")[0].all()
    check_rate(rows, 30)
    assert odd_times(rows, 30, 1e-4) == []


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
