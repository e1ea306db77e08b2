"""Images that travel as bytes become the same numbers on a GPU as on a CPU."""

import pytest
import torch

from getiaction.data.batch import ByteImages
from getiaction.demo import DotDataModule
from getiaction.train import Trainer

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_become_the_same_numbers_on_a_gpu(dtype):
    """Each of the 256 values, in page-locked memory, is divided as on the CPU, bit for bit."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 256, 1).expand(2, 4, 256, 3)
    images = ByteImages(pixels.contiguous(), dtype)
    here, there = images.to("cpu"), images.pin_memory().to("cuda")
    assert (there.device.type, there.dtype, there.shape) == ("cuda", dtype, here.shape)
    assert torch.equal(there.cpu(), here)


def test_loader_fills_pinned_memory_and_the_model_sees_the_samples(tmp_path):
    """The batch of a training step is on the GPU, and equals the dataset's samples."""
    data = DotDataModule(
        num_episodes=2, image_size_px=32, root=tmp_path / "dot", train_batch_size=4, num_workers=1
    )
    data.prepare_data()
    data.setup("fit")
    trainer = Trainer(accelerator="gpu", devices=1, default_root_dir=tmp_path, logger=False)
    data.trainer = trainer
    batch = next(iter(data.train_dataloader()))
    images = batch["observation.image"]
    assert not isinstance(images, ByteImages) or images.pixels.is_pinned()
    moved = data.transfer_batch_to_device(batch, torch.device("cuda", 0), 0)
    for row, index in enumerate(moved["index"].tolist()):
        sample = data.train_dataset[index]
        assert torch.equal(moved["observation.image"][row].cpu(), sample["observation.image"])
        assert torch.equal(moved["action"][row].cpu(), sample["action"])
