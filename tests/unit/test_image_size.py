"""Images are resized right after decoding on request, as policies resize them on the device."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from getiaction.data import DatasetError, LeRobotDataModule, LeRobotDataset
from getiaction.data.batch import ByteImages

DATA = Path(__file__).parents[1] / "data" / "lerobot"
SIZE = (40, 30)


@pytest.mark.parametrize("name", ["pusht_like_v30", "aloha_like_v21", "many_features_v30"])
def test_resized_images_are_the_policys_but_for_rounding(name: str) -> None:
    """Videos and stored images differ by 1 of 255 at most; everything else is unchanged."""
    plain, small = (
        LeRobotDataset(root=DATA / name),
        LeRobotDataset(root=DATA / name, image_size=SIZE),
    )
    cameras = {key for key, ft in plain.features.items() if ft["dtype"] in {"video", "image"}}
    resized = 0
    for key, value in plain[7].items():
        found = small[7][key]
        if key not in cameras or key in plain._metadata.depth_keys or value.max() > 1:
            assert torch.equal(found, value) if torch.is_tensor(value) else found == value, key
            continue
        expected = interpolate(value[None], SIZE, mode="bilinear", antialias=True)[0]
        assert found.shape == (3, *SIZE)
        assert (found - expected).abs().max() <= 1.01 / 255
        resized += 1
    assert resized


def test_pixels_of_more_than_8_bits_keep_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Distances must not be mixed with those behind an edge."""
    dataset = LeRobotDataset(root=DATA / "pusht_like_v30", image_size=SIZE)
    for dtype in (np.uint16, np.float32):
        pixels = np.zeros((96, 96, 1), dtype)
        monkeypatch.setattr(dataset._cameras, "_decode_whole", lambda *_, pixels=pixels: pixels)
        assert dataset._cameras._decode("observation.image", 0) is pixels


def test_batches_have_the_resized_images_of_the_samples_as_bytes() -> None:
    """A loader process sends no more than the smaller images."""
    dataset = LeRobotDataset(root=DATA / "pusht_like_v30", image_size=SIZE)
    dataset.delta_indices = {"observation.image": [-1, 0]}
    images = dataset.read_batch([3, 50])["observation.image"]
    assert isinstance(images, ByteImages)
    assert images.pixels.shape == (2, 2, *SIZE, 3)
    for number, index in enumerate((3, 50)):
        assert torch.equal(images[number].to("cpu"), dataset[index]["observation.image"])


def test_a_datamodule_resizes_and_does_not_log_what_policies_log() -> None:
    """Lightning refuses two hyperparameters of one name, and policies have this one."""
    datamodule = LeRobotDataModule(root=DATA / "pusht_like_v30", image_size=SIZE, num_workers=0)
    datamodule.setup()
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["observation.image"].shape == (16, 3, *SIZE)
    assert "image_size" not in datamodule.hparams


@pytest.mark.parametrize("size", [(48,), (0, 48), (4.5, 48), 48])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    """The message shows what to write."""
    with pytest.raises(
        DatasetError, match=r"height and a width in pixels, got .* Use \[384, 384\]"
    ):
        LeRobotDataModule(root="x", image_size=size)
