"""What the pages' code needs of the world outside."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from getiaction.demo import write_dot_dataset
from getiaction.policies.act.resnet import ResNet

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what a clone has at the places that the pages name."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "cluster_configs", tmp_path / "cluster_configs")
    return tmp_path


@pytest.fixture
def shortened(tmp_path: Path) -> dict[str, str]:
    """An environment in which the pages' scripts train for one step, without network.

    lerobot/pusht in the Hugging Face cache is a tiny dataset of the same kind, the ImageNet weights
    in torch's cache are random, and no checkpoint of the 50 million parameters is written. The
    `getiaction` command takes the Trainer's values from flags only: `ONE_STEP` does the same there.
    """
    snapshot = tmp_path / "hf/hub/datasets--lerobot--pusht/snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    write_dot_dataset(snapshot, num_episodes=2, image_size_px=16)
    reference = snapshot.parents[1] / "refs/v3.0"
    reference.parent.mkdir()
    reference.write_text(snapshot.name)
    weights = tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth"
    weights.parent.mkdir(parents=True)
    torch.save(ResNet("resnet18", norm="frozen_batch_norm").state_dict(), weights)
    return {
        **os.environ,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TORCH_HOME": str(tmp_path / "torch"),
        "PL_TRAINER_MAX_STEPS": "1",
        "PL_TRAINER_ENABLE_CHECKPOINTING": "False",
    }
