"""A callback that writes down when each optimizer step was done."""

import json
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer


class Stopwatch(Callback):
    """Writes the wall-clock time after each training batch of rank 0.

    Args:
        path: JSON file to write after the first batch and when training ends, a list of seconds
            since the epoch.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Take the time."""
        self.times.append(time.time())
        if len(self.times) == 1 and trainer.is_global_zero:
            self.path.write_text(json.dumps(self.times))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them down."""
        del pl_module
        if trainer.is_global_zero:
            self.path.write_text(json.dumps(self.times))
