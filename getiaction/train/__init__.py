"""Training: the Trainer and the callback that brings policy and dataset together."""

from getiaction.train.callbacks import PolicyDatasetInteraction
from getiaction.train.trainer import Trainer

__all__ = ["PolicyDatasetInteraction", "Trainer"]
