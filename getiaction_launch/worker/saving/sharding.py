"""Refuses to train what could not be saved: sharded checkpoints of several nodes at a URL."""

import os

from lightning.pytorch import Trainer

from getiaction_launch.plan.sharding import refuse_sharded
from getiaction_launch.worker.saving.lightning_seams import writes_one_file


def check_strategy(trainer: Trainer) -> None:
    """Check that a Trainer's checkpoints would be whole on one node.

    Raises:
        CheckError: If each node would write a part, and the run lies on remote storage.
    """
    if not writes_one_file(trainer.strategy):
        place = os.environ.get("GETIACTION_LAUNCH_RUN", "")
        refuse_sharded(type(trainer.strategy).__name__, trainer.num_nodes, place)
