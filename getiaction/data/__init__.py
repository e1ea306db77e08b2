"""Robot data: a reader of LeRobot datasets and a Lightning datamodule for training on them."""

from typing import TYPE_CHECKING

from getiaction.data.batch import Collate
from getiaction.data.dataset import LeRobotDataset
from getiaction.data.errors import DatasetError
from getiaction.data.lerobot import LeRobotDataModule
from getiaction.data.observation import PolicyDataset, find_policy_dataset

__all__ = [
    "Collate",
    "DatasetError",
    "DotDataModule",
    "LeRobotDataModule",
    "LeRobotDataset",
    "PolicyDataset",
    "find_policy_dataset",
]

if TYPE_CHECKING:
    from getiaction.demo import DotDataModule
else:

    def __getattr__(name: str) -> object:
        """Import `DotDataModule` from the place it had before `getiaction.demo`.

        Specs and stored runs still name it here. It is imported only when asked for, because the
        demo is built on this package: an import at the top would be circular.
        """
        if name == "DotDataModule":
            from getiaction.demo import DotDataModule

            return DotDataModule
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
