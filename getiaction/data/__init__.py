"""Robot data: readers of LeRobot datasets and Lightning datamodules over them."""

from getiaction.data.dataset import LeRobotDataset
from getiaction.data.dot import DotDataModule
from getiaction.data.errors import DatasetError
from getiaction.data.lerobot import LeRobotDataModule
from getiaction.data.observation import PolicyDataset, find_policy_dataset

__all__ = [
    "DatasetError",
    "DotDataModule",
    "LeRobotDataModule",
    "LeRobotDataset",
    "PolicyDataset",
    "find_policy_dataset",
]
