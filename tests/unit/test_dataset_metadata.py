"""What meta/ says is checked once, when a dataset is opened, in words that name the file."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import DATA, EPISODES, ROWS, STATS, edit, edit_info, refusal, replaced

from getiaction.data import LeRobotDataModule, LeRobotDataset


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
    """If the length of an episode is missing or negative, the error names the episode."""
    edit(v30, "length", replaced(2, length), EPISODES)
    assert f"the length {length!r} of episode 2" in refusal(v30)


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
