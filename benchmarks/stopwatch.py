"""Callbacks that write down when each optimizer step was done."""

import json
import os
import socket
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


class StepLog(Callback):
    """Writes down each optimizer step of rank 0 when it is done, whichever process did it.

    Args:
        path: File to append to, one JSON object a line: ``step``, how many steps that makes;
            ``at``, in seconds since the epoch; ``host`` and ``pid`` of the process.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Append a line."""
        if trainer.is_global_zero:
            line = {"step": trainer.global_step, "at": time.time()}
            line |= {"host": socket.gethostname(), "pid": os.getpid()}
            with self.path.open("a") as file:
                file.write(f"{json.dumps(line)}\n")
