"""Training: the Trainer, and the callback that builds policies for their dataset."""

from getiaction.train.callbacks import PolicyDatasetInteraction
from getiaction.train.trainer import Trainer

__all__ = ["PolicyDatasetInteraction", "Trainer"]
