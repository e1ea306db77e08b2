"""The dot dataset: valid, reproducible, whole or absent, and learnable only from the image."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from getiaction.data import DatasetError, LeRobotDataset
from getiaction.demo import DotDataModule, write_dot_dataset
from getiaction.demo import dot as dot_module

REPO = Path(__file__).parents[2]
DATA = REPO / "tests" / "data" / "lerobot"
CHUNK = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small dot dataset once."""
    return write_dot_dataset(
        tmp_path_factory.mktemp("dot") / "dot", num_episodes=30, image_size_px=32
    )


def test_it_has_the_layout_that_lerobot_writes(root: Path) -> None:
    """Keys of info.json, features and episode metadata are those of a dataset by lerobot."""
    reference = DATA / "pusht_like_v30"
    info, wanted = (json.loads((d / "meta/info.json").read_text()) for d in (root, reference))
    assert list(info) == list(wanted)
    assert list(info["features"]) == list(wanted["features"])
    for key, feature in wanted["features"].items():
        assert info["features"][key].keys() == feature.keys()
        assert info["features"][key]["dtype"] == feature["dtype"]
        if feature["dtype"] != "video":
            assert info["features"][key]["shape"] == feature["shape"]
    episodes = "meta/episodes/chunk-000/file-000.parquet"
    found, columns = (set(pq.read_schema(d / episodes).names) for d in (root, reference))
    assert found == {c for c in columns if "/q" not in c}, "all but quantiles"
    data = "data/chunk-000/file-000.parquet"
    found_schema, schema = (pq.read_schema(d / data) for d in (root, reference))
    assert found_schema.remove_metadata() == schema.remove_metadata()
    tasks = "meta/tasks.parquet"
    described, reference_description = (
        json.loads(pq.read_schema(d / tasks).metadata[b"pandas"]) for d in (root, reference)
    )
    assert described["index_columns"] == reference_description["index_columns"]


def test_each_episode_is_a_row_group(root: Path) -> None:
    """As in datasets by lerobot, a reader of one episode can skip the others' rows."""
    assert pq.ParquetFile(root / "data/chunk-000/file-000.parquet").num_row_groups == 30


def test_frames_show_what_the_state_says(root: Path) -> None:
    """The blue dot is where `observation.state` is, in every frame, so videos are in step."""
    dataset = LeRobotDataset(root=root)
    for i in range(0, len(dataset), 7):
        sample = dataset[i]
        _, green, blue = sample["observation.image"].double()
        weight = (blue - green - 0.1).clamp(min=0)
        pixels = torch.arange(32).double() + 0.5
        centre = torch.stack([(weight * pixels).sum(), (weight.T * pixels).sum()]) / weight.sum()
        assert torch.allclose(centre * 16, sample["observation.state"].double(), atol=16)


def test_stored_statistics_are_those_of_the_data(root: Path) -> None:
    """meta/stats.json matches what the samples give, images included."""
    stats = json.loads((root / "meta/stats.json").read_text())
    dataset = LeRobotDataset(root=root)
    samples = [dataset[i] for i in range(len(dataset))]
    for key in ("observation.state", "action", "next.reward", "index"):
        values = torch.stack([sample[key] for sample in samples]).double().numpy()
        assert np.allclose(stats[key]["mean"], values.mean(axis=0))
        assert np.allclose(stats[key]["std"], values.std(axis=0))
        assert np.allclose(stats[key]["min"], values.min(axis=0))
        assert np.allclose(stats[key]["max"], values.max(axis=0))
        assert stats[key]["count"] == [len(dataset)]
    images = torch.stack([sample["observation.image"] for sample in samples]).double()
    assert np.shape(stats["observation.image"]["std"]) == (3, 1, 1)
    mean, std = (np.ravel(stats["observation.image"][name]) for name in ("mean", "std"))
    assert np.allclose(mean, images.mean(dim=(0, 2, 3)), atol=0.02)
    assert np.allclose(std, images.std(dim=(0, 2, 3)), atol=0.02)


def test_episodes_have_various_lengths_and_end_in_success(root: Path) -> None:
    """Lengths vary, only the last frame is done, and most dots arrive."""
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    ends = np.flatnonzero(rows["next.done"])
    lengths = np.diff(ends, prepend=-1)
    assert rows["index"] == list(range(len(rows["index"])))
    assert len(ends) == 30
    assert lengths.min() >= 25
    assert lengths.max() <= 60
    assert len(set(lengths)) > 5
    assert np.mean([rows["next.success"][end] for end in ends]) > 0.7


def test_the_same_seed_gives_the_same_data(tmp_path: Path) -> None:
    """Rows and pictures depend on the arguments only."""
    one, two, other = (
        write_dot_dataset(tmp_path / str(i), num_episodes=2, image_size_px=16, seed=seed)
        for i, seed in enumerate((5, 5, 6))
    )
    for name in ("data/chunk-000/file-000.parquet", "meta/stats.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
        assert (one / name).read_bytes() != (other / name).read_bytes()
    first, second = LeRobotDataset(root=one), LeRobotDataset(root=two)
    assert torch.equal(first[20]["observation.image"], second[20]["observation.image"])


def test_holding_the_state_predicts_poorly_and_knowing_the_goal_well(root: Path) -> None:
    """Of 10 actions ahead, the state alone tells little and the goal, which only the image has."""
    dataset = LeRobotDataset(
        root=root,
        download_videos=False,
        delta_timestamps={"action": [i / 10 for i in range(CHUNK)]},
    )
    dataset.features = {k: f for k, f in dataset.features.items() if f["dtype"] != "video"}
    table = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    states, actions, episodes = (
        np.array(table[key]) for key in ("observation.state", "action", "episode_index")
    )
    goals = np.array([states[episodes == episode][-1] for episode in episodes])
    index = np.arange(len(states))[:, None] + np.arange(CHUNK)
    valid = (index < len(states)) & (
        episodes[np.minimum(index, len(states) - 1)] == episodes[:, None]
    )
    wanted = (actions[np.minimum(index, len(states) - 1)] - actions.mean(axis=0)) / actions.std(
        axis=0
    )
    is_train = episodes < 24

    def score(features: np.ndarray) -> float:
        inputs = np.c_[features, np.ones(len(features))]
        errors = []
        for k in range(CHUNK):
            fit, test = is_train & valid[:, k], ~is_train & valid[:, k]
            weights = np.linalg.lstsq(inputs[fit], wanted[fit, k], rcond=None)[0]
            errors.append(np.abs(inputs[test] @ weights - wanted[test, k]))
        return float(np.concatenate(errors).mean())

    held = (states - actions.mean(axis=0)) / actions.std(axis=0)
    hold = np.abs(held[:, None] - wanted)[~is_train][valid[~is_train]].mean()
    assert hold > 0.18
    assert score(states) > 0.12
    assert score(np.c_[states, goals]) < 0.12


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_episodes": 0}, "num_episodes must be at least 1, got 0"),
        ({"image_size_px": 8}, "image_size_px must be an even number of at least 16, got 8"),
        ({"image_size_px": 33}, "image_size_px must be an even number of at least 16, got 33"),
    ],
)
def test_arguments_out_of_range_are_refused(
    tmp_path: Path, kwargs: dict[str, int], message: str
) -> None:
    """What cannot be drawn or encoded is refused before anything is written."""
    with pytest.raises(DatasetError, match=message):
        write_dot_dataset(tmp_path / "x", **kwargs)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_overwritten(tmp_path: Path) -> None:
    """A folder that is there is refused, and left as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(DatasetError, match=r"already exists.*rm -r"):
        write_dot_dataset(tmp_path / "mine", num_episodes=1)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_a_writer_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle leaves neither the folder nor a part of it."""

    def fail(*_: object) -> None:
        msg = "disk full"
        raise OSError(msg)

    monkeypatch.setattr(dot_module, "_draw", fail)
    with pytest.raises(OSError, match="disk full"):
        write_dot_dataset(tmp_path / "x", num_episodes=1)
    assert not list(tmp_path.iterdir())


def prepare(root: Path) -> None:
    """Write the dataset as a rank does."""
    DotDataModule(root=root, num_episodes=2, image_size_px=16).prepare_data()


def test_several_processes_may_prepare_the_same_dataset(tmp_path: Path) -> None:
    """Simulated nodes on one machine write it once, under a lock."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prepare, args=(tmp_path / "dot",)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dot", "dot.lock"]


def test_the_datamodule_writes_what_it_then_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the dataset lies in the cache, apart for each set of arguments."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path))
    datamodule = DotDataModule(num_episodes=3, image_size_px=16, num_workers=0, val_split=0.3)
    assert not list(tmp_path.iterdir())
    datamodule.prepare_data()
    datamodule.setup("fit")
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["observation.image"].shape == (16, 3, 16, 16)
    assert datamodule.val_dataset is not None
    other = DotDataModule(num_episodes=3, image_size_px=16, seed=1)
    assert other.root != datamodule.root


def test_a_root_that_holds_another_dataset_is_refused(tmp_path: Path) -> None:
    """Arguments that contradict what is already at `root` are named with both values."""
    prepare(tmp_path / "dot")
    datamodule = DotDataModule(root=tmp_path / "dot", num_episodes=4, image_size_px=16)
    with pytest.raises(DatasetError, match=r"holds 2 episodes .*not 4 .*rm -r"):
        datamodule.prepare_data()


@pytest.mark.parametrize("name", ["getiaction.data.DotDataModule", "DotDataModule"])
def test_specs_name_the_datamodule_as_before_it_moved(tmp_path: Path, name: str) -> None:
    """Stored runs and specs that name it in `getiaction.data`, or by its bare name, still parse."""
    from getiaction.cli import CLI

    data = {"class_path": name, "init_args": {"root": str(tmp_path / "dot")}}
    trainer = {"logger": False, "accelerator": "cpu"}
    built = CLI({"model": "ACT", "data": data, "trainer": trainer}, run=False)
    assert type(built.datamodule) is DotDataModule


def test_it_can_be_imported_from_its_old_place() -> None:
    """`from getiaction.data import DotDataModule` gives the same class; typos stay errors."""
    import getiaction.data

    assert getiaction.data.DotDataModule is DotDataModule
    with pytest.raises(AttributeError, match="has no attribute 'DotDataModul'"):
        _ = getiaction.data.DotDataModul


def test_a_url_is_no_place_for_the_dot_dataset() -> None:
    """The datamodule writes to a local folder only, and says so."""
    with pytest.raises(DatasetError, match=r"s3://bucket/dot.*Use a folder"):
        DotDataModule(root="s3://bucket/dot")


def test_the_example_script_writes_a_dataset(tmp_path: Path) -> None:
    """The script in examples/ writes it, and says so in one line when it cannot."""
    words = [sys.executable, REPO / "examples/make_dot_dataset.py", tmp_path / "dot"]
    words += ["--num-episodes", "2", "--image-size-px", "16", "--seed", "3"]
    first = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert first.returncode == 0, first.stderr
    assert str(tmp_path / "dot") in first.stdout
    assert LeRobotDataset(root=tmp_path / "dot").num_episodes == 2
    second = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert second.returncode == 2
    assert "already exists" in second.stderr
    assert "Traceback" not in second.stderr
