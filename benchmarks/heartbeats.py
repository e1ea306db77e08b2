"""What the heartbeats of a rank cost in a step of 5 ms.

    python benchmarks/heartbeats.py

A run of the launcher trains a model whose steps take 5 ms. Blocks of steps alternate in the same
process: with heartbeats, and without them, where neither the hooks nor a note do anything. What is
compared is the CPU time of the thread that trains, which other processes disturb least; each ratio
is that of two neighbouring blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from getiaction_launch.worker.beats import Beats
from getiaction_launch.worker.heart import heart

COMPUTING_SECONDS = 0.0045
"""Lightning takes the rest of 5 ms."""
BLOCK = 40
"""Steps of a block: so few that a noisy machine disturbs neighbours alike."""
WARM_UP = 5
RESULT = "seconds.json"


def main() -> None:
    """Measure, and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30, help="pairs of blocks of 40 steps")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.pairs)
        return
    with tempfile.TemporaryDirectory() as directory:
        launcher = [sys.executable, "-m", "getiaction_launch.cli", "--wait", "--gpus-per-node", "0"]
        subprocess.run(
            [*launcher, str(Path(__file__).resolve()), "--train", "--pairs", str(args.pairs)],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        pairs = json.loads(Path(directory, RESULT).read_text(encoding="utf-8"))
    beating, silent = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    differences = [one - other for one, other in pairs]
    extra = statistics.median(differences) * 1e6
    ratio = statistics.median(one / other for one, other in pairs)
    print(
        f"CPU time of a step: {beating:.3f} ms with heartbeats, {silent:.3f} ms without; "
        f"{extra:.1f} us more, median ratio of {len(pairs)} pairs {ratio:.4f}"
    )


class Ones(torch.utils.data.Dataset[torch.Tensor]):
    """Data without an end in sight."""

    def __len__(self) -> int:
        """Return more than is needed."""
        return 10**6

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return the same each time."""
        del index
        return torch.ones(4)


class Model(LightningModule):
    """One layer, and something that takes the rest of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Compute until the time is over."""
        del batch_idx
        end = time.thread_time() + COMPUTING_SECONDS
        loss: torch.Tensor = self.layer(batch).sum()
        while time.thread_time() < end:
            pass
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return any optimizer."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Turns(Callback):
    """Turns the heartbeats on and off between two blocks, and takes the time of each.

    Attributes:
        seconds: CPU time of a step in each block; the first block has heartbeats.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._steps = 0
        self._began_at = 0.0
        self._hooks = {name: hook for name, hook in vars(Beats).items() if name.startswith("on_")}

    def on_train_batch_start(self, *_: object) -> None:
        """Count the step; a block ends after a number of them."""
        if self._steps and self._steps % BLOCK == 0:
            self._turn()
        if self._steps % BLOCK == WARM_UP:
            self._began_at = time.thread_time()
        self._steps += 1

    def _turn(self) -> None:
        self.seconds.append((time.thread_time() - self._began_at) / (BLOCK - WARM_UP))
        is_beating = len(self.seconds) % 2 == 0
        for name, hook in self._hooks.items():
            setattr(Beats, name, hook if is_beating else _do_nothing)
        vars(heart()).pop("beat", None)
        if not is_beating:
            vars(heart())["beat"] = _do_nothing


def _do_nothing(*_: Any) -> None:  # noqa: ANN401 - whatever the hook gets
    """Stand for a hook or a note."""


def train(pairs: int) -> None:
    """Train with and without heartbeats in turn, as the program of a run."""
    turns = Turns()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=2 * BLOCK * (pairs + 1) + 1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[turns],
    )
    trainer.fit(Model(), torch.utils.data.DataLoader(Ones()))
    found = list(zip(turns.seconds[2::2], turns.seconds[3::2], strict=False))
    Path(RESULT).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
