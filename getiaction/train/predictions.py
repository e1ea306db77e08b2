"""Saves what `getiaction predict` predicts, which Lightning's command line throws away."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_only


class PredictionFiles(BasePredictionWriter):
    """Writes `predictions/rank_N.pt` into the run's directory, one file for each process.

    Each holds a dict for `torch.load`: `predictions` are what `predict_step` returned, batch by
    batch, and `batch_indices` the positions in the dataset that each batch was made of. With
    several data loaders, both are lists of such lists.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: LightningTrainer,
        pl_module: LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write the file of this process, and print the path of its directory once."""
        del pl_module
        directory = os.path.join(trainer.log_dir or trainer.default_root_dir, "predictions")  # noqa: PTH118 - may be a URL
        path = os.path.join(directory, f"rank_{trainer.global_rank}.pt")  # noqa: PTH118 - as above
        fs = get_filesystem(directory)
        fs.makedirs(directory, exist_ok=True)
        with fs.open(path, "wb") as file:
            # Lightning has one list for each loader here, also if there is only one.
            indices = batch_indices[0] if len(batch_indices) == 1 else batch_indices
            torch.save({"predictions": predictions, "batch_indices": indices}, file)
        _say(f"predictions: {directory}")


@rank_zero_only
def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
