"""Damaged datasets and wrong arguments give an error that names the file or value, and the fix."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import DATA, EPISODES, INFO, ROWS, edit_info

from getiaction.data import DatasetError, LeRobotDataset

VIDEO = "videos/observation.image/chunk-000/file-000.mp4"


def refusal(root: Path, **kwargs: Any) -> str:
    """Return what opening and reading a damaged dataset says."""
    with pytest.raises(DatasetError) as caught:
        LeRobotDataset(root=root, **kwargs)[0]
    return str(caught.value)


def edit_rows(root: Path, edit: Callable[[pa.Table], pa.Table], name: str = ROWS) -> None:
    """Change a parquet file in place."""
    pq.write_table(edit(pq.read_table(root / name)), root / name)


def cut(path: Path, share: float) -> None:
    """Keep only the first part of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("name", [INFO, "meta/tasks.parquet", ROWS, VIDEO])
def test_a_missing_file_of_v30_is_named(v30: Path, name: str) -> None:
    """Any required file that is absent is named with its full path."""
    (v30 / name).unlink()
    message = refusal(v30)
    assert f"{v30 / name} is missing" in message
    assert "again" in message or "Set root" in message


@pytest.mark.parametrize(
    "name",
    [
        "meta/episodes.jsonl",
        "meta/tasks.jsonl",
        "data/chunk-000/episode_000001.parquet",
        "videos/chunk-000/observation.images.top/episode_000002.mp4",
    ],
)
def test_a_missing_file_of_v21_is_named(v21: Path, name: str) -> None:
    """Any required file that is absent is named with its full path."""
    (v21 / name).unlink()
    assert f"{v21 / name} is missing" in refusal(v21)


def test_missing_episode_metadata_is_named(v30: Path) -> None:
    """An empty meta/episodes is named."""
    (v30 / EPISODES).unlink()
    assert f"{v30 / 'meta/episodes'} has no parquet file" in refusal(v30)


def test_a_folder_that_is_no_dataset_is_explained(tmp_path: Path) -> None:
    """A wrong root says what a root is."""
    assert "Set root to the folder that holds meta/info.json" in refusal(tmp_path)


@pytest.mark.parametrize("name", [ROWS, EPISODES, "meta/tasks.parquet"])
def test_a_truncated_parquet_file_is_named(v30: Path, name: str) -> None:
    """A parquet file that was cut off is named as damaged."""
    cut(v30 / name, 0.7)
    assert f"{v30 / name} is damaged" in refusal(v30)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/stats.json"])
def test_truncated_json_is_named(v30: Path, name: str) -> None:
    """A JSON file that was cut off is named."""
    cut(v30 / name, 0.5)
    assert f"{v30 / name} is not readable JSON" in refusal(v30)


def test_truncated_json_lines_are_named(v21: Path) -> None:
    """A JSON lines file that was cut off is named."""
    cut(v21 / "meta/episodes.jsonl", 0.5)
    assert f"{v21 / 'meta/episodes.jsonl'} is not readable JSON lines" in refusal(v21)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.99])
def test_a_truncated_video_is_named(v30: Path, share: float) -> None:
    """A video that was cut off is named at the first frame, even if that one is whole."""
    cut(v30 / VIDEO, share)
    message = refusal(v30)
    assert str(v30 / VIDEO) in message
    assert "again" in message


def test_a_video_that_lacks_the_last_frames_is_named_with_the_times(v30: Path) -> None:
    """A video shorter than its episodes names the wanted and the nearest time."""
    edit_rows(
        v30,
        lambda table: table.set_column(
            table.column_names.index("videos/observation.image/from_timestamp"),
            "videos/observation.image/from_timestamp",
            pa.array([100.0] * 6),
        ),
        EPISODES,
    )
    message = refusal(v30)
    assert f"{v30 / VIDEO} has no frame at 100.000000 s" in message
    assert "29.900000 s" in message


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    """If a stored image cannot be decoded, the error names its camera and frame."""
    root = Path(shutil.copytree(DATA / "images_only_v30", tmp_path / "images"))

    def damage(table: pa.Table) -> pa.Table:
        images = pa.array([{"bytes": b"no image", "path": "x"}] * len(table))
        return table.set_column(0, table.column_names[0], images)

    edit_rows(root, damage)
    assert '"observation.image" of frame 0: not a readable PNG' in refusal(root)


@pytest.mark.parametrize("version", ["v1.6", "v2.0", "v4.0"])
def test_an_unsupported_version_names_the_supported_ones(v30: Path, version: str) -> None:
    """A dataset of another format says which formats are read, and how to get there."""
    edit_info(v30, lambda info: info.update(codebase_version=version))
    message = refusal(v30)
    assert f'codebase_version "{version}" is not supported (v2.1 and v3.0 are)' in message
    assert ("convert" in message) == (version < "v3")


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [("total_frames", 299, "300"), ("total_episodes", 7, "6"), ("fps", 30, "0.1000 s apart")],
)
def test_an_info_file_that_lies_is_corrected(v30: Path, key: str, value: int, found: str) -> None:
    """A total or rate that contradicts the data is named with the right value."""
    edit_info(v30, lambda info: info.update({key: value}))
    message = refusal(v30)
    assert f"{v30 / INFO}: {key} is {value}" in message
    assert found in message
    assert f'Write "{key}": ' in message


@pytest.mark.parametrize("key", ["fps", "features", "data_path", "video_path", "codebase_version"])
def test_an_info_file_without_a_needed_key_is_named(v30: Path, key: str) -> None:
    """An absent key of info.json is named."""
    edit_info(v30, lambda info: info.pop(key))
    assert re.search(f"{re.escape(str(v30 / INFO))} lacks .*{key}", refusal(v30))


@pytest.mark.parametrize("fps", [0, -1, "ten"])
def test_a_rate_that_is_no_rate_is_refused(v30: Path, fps: object) -> None:
    """The value of fps is checked before anything is divided by it."""
    edit_info(v30, lambda info: info.update(fps=fps))
    assert f"fps must be a positive number, got {fps!r}" in refusal(v30)


@pytest.mark.parametrize(
    ("key", "shape"), [("action", [3]), ("action", [2, 2]), ("action", 2), ("next.reward", [2])]
)
def test_a_feature_of_another_shape_is_named_with_its_file(
    v30: Path, key: str, shape: object
) -> None:
    """A shape in info.json that the rows do not have is named."""
    edit_info(v30, lambda info: info["features"][key].update(shape=shape))
    message = refusal(v30)
    assert f'"{key}"' in message
    assert str(v30 / (ROWS if isinstance(shape, list) else INFO)) in message
    assert str(shape) in message


def test_an_image_of_another_size_is_named(v30: Path) -> None:
    """A camera whose frames do not have the promised size is named."""
    camera = "observation.image"
    edit_info(v30, lambda info: info["features"][camera].update(shape=[96, 128, 3]))
    message = refusal(v30)
    assert f'"{camera}"' in message
    assert "[96, 96]" in message
    assert "[96, 128]" in message


def test_a_feature_of_another_type_is_named(v30: Path) -> None:
    """A dtype in info.json that the rows do not have is named with the file."""
    edit_info(v30, lambda info: info["features"]["action"].update(dtype="string"))
    assert f'{v30 / ROWS}: column "action" does not hold string' in refusal(v30)


def test_an_absent_column_is_named_with_those_there_are(v30: Path) -> None:
    """A feature without a column in the data file is named."""
    edit_rows(v30, lambda table: table.drop_columns(["next.reward"]))
    message = refusal(v30)
    assert f"{v30 / ROWS} has no column ['next.reward']" in message
    assert "'next.done'" in message


def test_an_absent_column_of_the_episode_list_is_named(v30: Path) -> None:
    """A column that episode metadata must have is named."""
    edit_rows(v30, lambda table: table.drop_columns(["length"]), EPISODES)
    assert f"{v30 / EPISODES} has no column ['length']" in refusal(v30)


@pytest.mark.parametrize("key", ["timestamp", "episode_index", "task_index"])
def test_an_absent_standard_feature_is_named(v30: Path, key: str) -> None:
    """The features that every dataset has may not be left out of info.json."""
    edit_info(v30, lambda info: info["features"].pop(key))
    assert f"features lacks ['{key}']" in refusal(v30)


def test_absent_values_are_named(v30: Path) -> None:
    """Rows with nulls are refused rather than read as zero or not-a-number."""

    def damage(table: pa.Table) -> pa.Table:
        rewards = [None, *table["next.reward"].to_pylist()[1:]]
        place = table.column_names.index("next.reward")
        return table.set_column(place, "next.reward", pa.array(rewards, pa.float32()))

    edit_rows(v30, damage)
    assert "1 values are missing" in refusal(v30)


def test_rows_that_do_not_match_the_episode_list_are_counted(v30: Path) -> None:
    """A data file with fewer rows than metadata promises is named with the episode."""
    edit_rows(v30, lambda table: table.slice(0, 290))
    message = refusal(v30)
    assert f"{v30 / ROWS} has 50 rows of episode 5, but meta/ lists 60" in message


def test_no_rows_at_all_are_counted(v30: Path) -> None:
    """An empty data file is refused."""
    edit_rows(v30, lambda table: table.slice(0, 0))
    assert "has 0 rows of episode 0, but meta/ lists 40" in refusal(v30)


def test_shuffled_rows_are_refused(v30: Path) -> None:
    """The rows of an episode must lie together."""
    edit_rows(v30, lambda table: pa.concat_tables([table.slice(20), table.slice(0, 20)]))
    assert "rows of an episode are not contiguous" in refusal(v30)


def test_an_unknown_task_is_named(v30: Path) -> None:
    """A task_index without text is named."""
    texts = pa.table({"task_index": [7], "task": ["other"]})
    pq.write_table(texts, v30 / "meta" / "tasks.parquet")
    assert "no task has task_index [0]" in refusal(v30)


def test_numbers_that_are_not_finite_are_refused(v30: Path) -> None:
    """Not-a-number in a state would spoil training silently, so statistics refuse it."""
    (v30 / "meta" / "stats.json").unlink()

    def damage(table: pa.Table) -> pa.Table:
        values = [[float("nan"), 0.0], *table["action"].to_pylist()[1:]]
        return table.set_column(1, "action", pa.array(values, pa.list_(pa.float32(), 2)))

    edit_rows(v30, damage)
    assert '"action" holds numbers that are not finite' in refusal(v30)


@pytest.mark.parametrize(
    ("episodes", "problem"),
    [([6], "[6] do not exist"), ([-1], "[-1] do not exist"), ([], "empty"), ([1, 1], "repeats")],
)
def test_unfit_episodes_name_the_valid_ones(v30: Path, episodes: list[int], problem: str) -> None:
    """Episodes out of range, repeated, or none at all, are refused with the range."""
    message = refusal(v30, episodes=episodes)
    assert problem in message
    assert "from 0 to 5" in message


def test_offsets_of_an_unknown_feature_name_the_known_ones(v30: Path) -> None:
    """A misspelt key of delta_timestamps or delta_indices is refused with the valid keys."""
    assert "'observation.state'" in refusal(v30, delta_timestamps={"actions": [0.0]})
    dataset = LeRobotDataset(root=v30)
    with pytest.raises(DatasetError, match='delta_indices: unknown feature "actions"'):
        dataset.delta_indices = {"actions": [0]}


def test_offsets_between_frames_are_refused_with_the_nearest_ones(v30: Path) -> None:
    """Offsets must be multiples of 1/fps."""
    message = refusal(v30, delta_timestamps={"action": [0.0, 0.13]})
    assert "[0.13] are not multiples of 1/fps = 0.1 s" in message
    assert "Use [0.1]" in message


def test_an_empty_list_of_offsets_is_refused(v30: Path) -> None:
    """A feature with no offset at all would vanish from samples."""
    assert '["action"] is empty' in refusal(v30, delta_timestamps={"action": []})


def test_a_dataset_must_be_named() -> None:
    """Neither repo_id nor root is an error that shows both."""
    with pytest.raises(DatasetError, match=r"repo_id=.* or root="):
        LeRobotDataset()


def test_a_url_without_a_dataset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that has no meta/info.json, or whose scheme is unknown, is named."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path))
    with pytest.raises(DatasetError, match=r"memory://nowhere lacks .*meta/info.json"):
        LeRobotDataset(root="memory://nowhere")
    with pytest.raises(DatasetError, match=r"nothing://here cannot be read .*nothing"):
        LeRobotDataset(root="nothing://here")


def test_a_remote_file_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that metadata promises and the remote side lacks is named, and no part is left."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path))
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{DATA / 'pusht_like_v30'}/", "/damaged", recursive=True)
    filesystem.rm(f"/damaged/{VIDEO}")
    with pytest.raises(DatasetError, match=r"memory://damaged lacks .*file-000\.mp4"):
        LeRobotDataset(root="memory://damaged")
    filesystem.rm("/damaged", recursive=True)
    assert not list(tmp_path.rglob("*.mp4*"))
