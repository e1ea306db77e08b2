"""Statistics of a dataset: kinds, shapes, joining, and floors under every std."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from getiaction.data import DatasetError, LeRobotDataset
from getiaction.data.observation import PolicyDataset
from getiaction.data.stats import aggregate_stats, channel_first_shape, floor_std

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT = DATA / "pusht_like_v30"


def test_stats_describe_what_a_policy_needs() -> None:
    """Every observation and the action have kind, shape and plain lists; text and others do not."""
    dataset = LeRobotDataset(root=DATA / "many_features_v30")
    assert isinstance(dataset, PolicyDataset)
    assert {key: (s["type"], s["shape"]) for key, s in dataset.stats.items()} == {
        "observation.images.top": ("VISUAL", [3, 48, 64]),
        "observation.images.side": ("VISUAL", [3, 32, 32]),
        "observation.images.wrist": ("VISUAL", [3, 48, 64]),
        "observation.state": ("STATE", [5]),
        "observation.matrix": ("STATE", [4, 4]),
        "observation.cube": ("STATE", [2, 3, 2]),
        "observation.count": ("STATE", [1]),
        "observation.bytes": ("STATE", [3]),
        "observation.flags": ("STATE", [3]),
        "observation.environment_state": ("ENV", [2]),
        "action": ("ACTION", [3]),
    }
    for stats in dataset.stats.values():
        shape = (3, 1, 1) if stats["type"] == "VISUAL" else tuple(stats["shape"])
        for name in ("mean", "std", "min", "max"):
            assert np.shape(stats[name]) == shape


def test_stats_survive_a_weights_only_checkpoint(tmp_path: Path) -> None:
    """Statistics are plain Python values, which a checkpoint may hold."""
    stats = LeRobotDataset(root=PUSHT).stats
    torch.save(stats, tmp_path / "stats.pt")
    assert torch.load(tmp_path / "stats.pt", weights_only=True) == stats


def test_rgb_cameras_get_imagenet_statistics_unless_declined() -> None:
    """The stored image std, wrong in many datasets, is used only on request, and with a floor."""
    by_default = LeRobotDataset(root=PUSHT).stats["observation.image"]
    stored = LeRobotDataset(root=PUSHT, use_imagenet_stats=False).stats["observation.image"]
    assert np.ravel(by_default["mean"]).tolist() == [0.485, 0.456, 0.406]
    assert np.ravel(by_default["std"]).tolist() == [0.229, 0.224, 0.225]
    assert np.ravel(stored["mean"]) == pytest.approx([0.98533, 0.99516, 0.98877], abs=1e-4)
    spans = np.subtract(stored["max"], stored["min"])
    assert np.allclose(stored["std"], 1e-2 * spans)


def test_statistics_of_v21_join_those_of_the_episodes() -> None:
    """Joined per-episode statistics equal those of all rows at once."""
    dataset = LeRobotDataset(root=DATA / "aloha_like_v21")
    rows = torch.stack([dataset[i]["action"] for i in range(len(dataset))]).double().numpy()
    stats = dataset.stats["action"]
    assert np.allclose(stats["mean"], rows.mean(axis=0), atol=1e-6)
    assert np.allclose(stats["std"], rows.std(axis=0), rtol=1e-5)
    assert np.allclose(stats["min"], rows.min(axis=0))
    assert np.allclose(stats["max"], rows.max(axis=0))


def test_aggregation_weighs_episodes_by_their_length() -> None:
    """The joint mean and std are those of the concatenated values."""
    parts = [np.array([[0.0], [2.0]]), np.array([[5.0], [6.0], [10.0]])]
    episodes = [
        {
            "x": {k: getattr(p, k)(axis=0) for k in ("min", "max", "mean", "std")}
            | {"count": [len(p)]}
        }
        for p in parts
    ]
    joined = aggregate_stats(episodes)["x"]
    values = np.concatenate(parts)
    assert joined["mean"] == pytest.approx(values.mean(axis=0))
    assert joined["std"] == pytest.approx(values.std(axis=0))
    assert (joined["min"], joined["max"]) == ([0.0], [10.0])


def test_a_std_never_blows_noise_up() -> None:
    """A small std is raised to a share of the range; a constant dimension is left unscaled."""
    std = np.array([0.5, 1e-6, 0.0, 1e-7])
    low = np.array([-1.0, 0.0, 3.0, 3.0])
    high = np.array([1.0, 2.0, 3.0, 3.0 + 1e-6])
    assert floor_std(std, low, high).tolist() == [0.5, 0.02, 1.0, 1.0]


def test_missing_statistics_are_computed_from_the_rows(tmp_path: Path) -> None:
    """Without meta/stats.json numbers get the statistics of their rows."""
    root = tmp_path / "pusht"
    shutil.copytree(PUSHT, root)
    (root / "meta" / "stats.json").unlink()
    expected, found = LeRobotDataset(root=PUSHT).stats, LeRobotDataset(root=root).stats
    for name in ("mean", "std", "min", "max"):
        assert np.allclose(found["action"][name], expected["action"][name], rtol=1e-5)
    assert found["observation.image"]["min"] == [[[0.0]]] * 3
    with pytest.raises(DatasetError, match=r"observation\.image.*use_imagenet_stats=True"):
        LeRobotDataset(root=root, use_imagenet_stats=False)


@pytest.mark.parametrize(
    ("shape", "names", "expected"),
    [
        ([48, 64, 3], ["height", "width", "channels"], [3, 48, 64]),
        ([3, 48, 64], ["channels", "height", "width"], [3, 48, 64]),
        ([3, 48, 64], None, [3, 48, 64]),
        ([48, 64, 3], None, [3, 48, 64]),
        ([3, 48, 3], ["channel", "height", "width"], [3, 48, 3]),
        ([3, 48, 3], {"axes": ["height", "width", "channel"]}, [3, 3, 48]),
    ],
)
def test_a_camera_may_be_declared_in_either_order(
    shape: list[int], names: object, expected: list[int]
) -> None:
    """The channel axis is found by its size, and by its name where the size does not tell."""
    assert channel_first_shape({"dtype": "video", "shape": shape, "names": names}) == expected
