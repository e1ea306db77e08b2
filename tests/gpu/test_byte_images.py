"""Images that travel as bytes become the same numbers on a GPU as on a CPU."""

import pytest
import torch

from getiaction.data.batch import ByteImages
from getiaction.demo import DotDataModule
from getiaction.policies import ACT
from getiaction.train import Trainer

IMAGE = "observation.image"
DTYPES = {"32-true": torch.float32, "bf16-true": torch.bfloat16}

pytestmark = pytest.mark.usefixtures("gpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_become_the_same_numbers_on_a_gpu(dtype):
    """Each of the 256 values, in page-locked memory, is divided as on the CPU, bit for bit."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 256, 1).expand(2, 4, 256, 3)
    images = ByteImages(pixels.contiguous(), dtype)
    here, there = images.to("cpu"), images.pin_memory().to("cuda")
    assert (there.device.type, there.dtype, there.shape) == ("cuda", dtype, here.shape)
    assert torch.equal(there.cpu(), here)


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_batch_of_a_step_was_pinned_bytes(tmp_path, precision):
    """What a loader process reads is moved from page-locked memory, and equals the samples."""
    data = DotDataModule(
        num_episodes=2, image_size_px=32, root=tmp_path / "dot", train_batch_size=4, num_workers=1
    )
    policy = ACT(
        chunk_size=10, n_action_steps=10, pretrained_backbone_weights=None, image_size=None
    )
    trainer = Trainer(
        accelerator="gpu",
        devices=1,
        precision=precision,
        max_steps=1,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    moved = []
    move = trainer.strategy.batch_to_device

    def watch(batch, *words, **others):
        arrived = move(batch, *words, **others)
        moved.append((batch[IMAGE], arrived))
        return arrived

    trainer.strategy.batch_to_device = watch
    trainer.fit(policy, data)
    images, batch = moved[0]
    assert isinstance(images, ByteImages)
    assert images.pixels.is_pinned()
    assert batch[IMAGE].device.type == "cuda"
    assert batch[IMAGE].dtype is DTYPES[precision]
    for row, index in enumerate(batch["index"].tolist()):
        sample = data.train_dataset[index][IMAGE].to(batch[IMAGE].dtype)
        assert torch.equal(batch[IMAGE][row].cpu(), sample)
