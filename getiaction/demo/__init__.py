"""The dot dataset: a small LeRobot dataset, generated on the spot for examples and tests."""

from getiaction.demo.dot import DotDataModule, write_dot_dataset

__all__ = ["DotDataModule", "write_dot_dataset"]
