"""LeRobotDataset equals lerobot's own reader, in any process."""

import copy
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from getiaction.data import LeRobotDataset

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT = DATA / "pusht_like_v30"
CASES = [
    (name, case)
    for name in (
        "pusht_like_v30",
        "aloha_like_v21",
        "many_features_v30",
        "images_only_v30",
        "h264_v30",
    )
    for case in torch.load(DATA / f"{name}.pt", weights_only=True)
]


def assert_same(sample: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare samples bit for bit."""
    assert list(sample) == list(expected)
    for key, value in expected.items():
        if isinstance(value, str):
            assert sample[key] == value
            continue
        wanted = value.to(torch.float32) / 255 if is_pixels(key, value) else value
        assert sample[key].dtype == wanted.dtype, key
        assert torch.equal(sample[key], wanted), key


def is_pixels(key: str, value: torch.Tensor) -> bool:
    """Tell whether an expected value is a camera's, stored as uint8."""
    return "image" in key and value.dtype == torch.uint8


@pytest.mark.parametrize(("name", "case"), CASES)
def test_samples_equal_those_of_lerobot(name: str, case: str) -> None:
    """Keys, their order, dtypes, shapes and every value are those that lerobot returns."""
    wanted = torch.load(DATA / f"{name}.pt", weights_only=True)[case]
    dataset = LeRobotDataset(
        root=DATA / name,
        episodes=wanted["episodes"],
        delta_timestamps=wanted["delta_timestamps"],
    )
    assert len(dataset) == dataset.num_frames == wanted["len"]
    assert dataset.num_episodes == wanted["num_episodes"]
    assert dataset.fps == wanted["fps"]
    for index, expected in wanted["samples"].items():
        assert_same(dataset[index], expected)


def test_a_sample_owns_its_values() -> None:
    """Changing a sample in place does not change the dataset."""
    dataset = LeRobotDataset(root=PUSHT, delta_timestamps={"action": [0.0, 0.1]})
    before = copy.deepcopy(dataset[3])
    for value in dataset[3].values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    assert torch.equal(dataset[3]["action"], before["action"])
    assert torch.equal(dataset[3]["observation.state"], before["observation.state"])


def test_negative_indices_count_from_the_end_and_others_raise_index_error() -> None:
    """Indexing follows Python's rules for sequences."""
    dataset = LeRobotDataset(root=PUSHT, delta_timestamps={"action": [-0.1, 0.0]})
    assert_same(dataset[-1], dataset[len(dataset) - 1])
    assert_same(dataset[-300], dataset[0])
    assert dataset[torch.tensor(2)]["index"] == 2
    for index in (len(dataset), -len(dataset) - 1):
        with pytest.raises(IndexError, match="300 frames"):
            dataset[index]


def test_episodes_keep_the_order_of_the_files() -> None:
    """As in lerobot, the order of the `episodes` argument does not reorder samples."""
    dataset = LeRobotDataset(root=PUSHT, episodes=[4, 1])
    assert dataset[0]["episode_index"] == 1
    assert dataset[len(dataset) - 1]["episode_index"] == 4
    assert dataset.num_episodes == 2


def test_delta_indices_replace_delta_timestamps() -> None:
    """Setting frame offsets after construction changes what samples stack."""
    dataset = LeRobotDataset(root=PUSHT)
    assert dataset.delta_indices is None
    dataset.delta_indices = {"action": [0, 1, 2], "observation.image": [-1, 0]}
    expected = LeRobotDataset(
        root=PUSHT, delta_timestamps={"action": [0, 0.1, 0.2], "observation.image": [-0.1, 0]}
    )
    assert dataset.delta_indices == expected.delta_indices
    assert_same(dataset[40], expected[40])
    dataset.delta_indices = None
    assert dataset[40]["action"].shape == (2,)


def test_text_may_be_stacked() -> None:
    """A text feature with offsets, which lerobot cannot stack, comes as a list."""
    dataset = LeRobotDataset(root=DATA / "many_features_v30")
    dataset.delta_indices = {"language": [0, 1]}
    assert dataset[0]["language"] == ["say 0 0", "say 0 1"]


def test_image_transforms_are_applied_to_every_camera_only() -> None:
    """Each camera tensor, stacked or not, passes through `image_transforms`."""
    root = DATA / "aloha_like_v21"
    plain = LeRobotDataset(root=root)
    dark = LeRobotDataset(root=root, image_transforms=torch.zeros_like)
    assert plain[0]["observation.images.top"].any()
    assert not dark[0]["observation.images.top"].any()
    assert not dark[0]["observation.images.wrist"].any()
    assert torch.equal(dark[0]["observation.state"], plain[0]["observation.state"])


@pytest.mark.parametrize("name", ["pusht_like_v30", "aloha_like_v21"])
def test_image_transforms_get_the_stacked_frames_of_a_camera_in_one_call(name: str) -> None:
    """As in lerobot, so that a random transform is the same for all of a sample's frames."""
    given: list[torch.Tensor] = []

    def halve(images: torch.Tensor) -> torch.Tensor:
        given.append(images)
        return images / 2

    plain = LeRobotDataset(root=DATA / name)
    halved = LeRobotDataset(root=DATA / name, image_transforms=halve)
    cameras = [key for key, value in plain.features.items() if value["dtype"] in {"image", "video"}]
    plain.delta_indices = halved.delta_indices = {key: [-1, 0] for key in cameras}
    sample, batch = halved[3], halved.read_batch([3, 4])
    assert len(given) == len(cameras) * (1 + 2)
    for number, key in enumerate(cameras):
        frames = plain[3][key]
        assert frames.shape[:2] == (2, 3)
        assert torch.equal(given[number], frames)
        assert torch.equal(sample[key], frames / 2)
        assert torch.equal(batch[key], torch.stack([frames, plain[4][key]]) / 2)


@pytest.mark.parametrize(("start_method", "num_workers"), [("fork", 2), ("spawn", 1)])
def test_loader_workers_read_what_the_parent_reads(start_method: str, num_workers: int) -> None:
    """Workers open decoders of their own, also after the parent has used its own."""
    dataset = LeRobotDataset(root=PUSHT, delta_timestamps={"action": [0.0, 0.1]}, episodes=[0, 1])
    before = dataset[50]
    loader: DataLoader[dict[str, Any]] = DataLoader(
        dataset,
        batch_size=21,
        num_workers=num_workers,
        multiprocessing_context=start_method,
        timeout=60,
    )
    batches = list(loader)
    pixels = torch.cat([batch["observation.image"] for batch in batches])
    assert pixels.shape == (84, 3, 96, 96)
    assert torch.equal(pixels[50], before["observation.image"])
    assert all(torch.equal(pixels[i], dataset[i]["observation.image"]) for i in range(84))
    assert batches[0]["task"][0] == before["task"]


def test_a_pickle_leaves_decoders_out_and_reads_on() -> None:
    """A dataset that has been read from can be pickled, and its copy reads the same."""
    dataset = LeRobotDataset(root=PUSHT)
    expected = dataset[7]
    restored = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - our own bytes
    assert_same(restored[7], expected)


@pytest.mark.parametrize("name", ["task", "__index_level_0__", "whatever"])
def test_the_column_of_task_texts_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Releases of lerobot name the text column of tasks.parquet differently."""
    root = tmp_path / "pusht"
    shutil.copytree(PUSHT, root)
    pq.write_table(pa.table({name: ["push"], "task_index": [0]}), root / "meta" / "tasks.parquet")
    assert LeRobotDataset(root=root)[0]["task"] == "push"


def test_several_files_of_episode_metadata_are_joined(tmp_path: Path) -> None:
    """meta/episodes may be split into any number of files and chunks."""
    root = tmp_path / "pusht"
    shutil.copytree(PUSHT, root)
    first = root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(first)
    second = root / "meta" / "episodes" / "chunk-001" / "file-000.parquet"
    second.parent.mkdir()
    pq.write_table(table.slice(0, 4), first)
    pq.write_table(table.slice(4), second)
    assert_same(LeRobotDataset(root=root)[299], LeRobotDataset(root=PUSHT)[299])


def test_subtask_texts_are_returned_where_there_are_any(tmp_path: Path) -> None:
    """As in lerobot, a dataset with subtask_index and meta/subtasks.parquet gives "subtask"."""
    root = tmp_path / "pusht"
    shutil.copytree(PUSHT, root)
    data = root / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(data)
    pq.write_table(table.append_column("subtask_index", table["task_index"]), data)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["subtask_index"] = info["features"]["task_index"]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    texts = pa.table({"subtask_index": [0], "subtask": ["reach"]})
    pq.write_table(texts, root / "meta" / "subtasks.parquet")
    assert LeRobotDataset(root=root)[0]["subtask"] == "reach"


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    """A dataset whose video folders are symbolic links is whole."""
    shutil.copytree(PUSHT, tmp_path / "pusht")
    chunk = tmp_path / "pusht/videos/observation.image/chunk-000"
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    assert len(LeRobotDataset(root=tmp_path / "pusht")) == 300
