"""Does the reader or the GPU limit training? Samples per second of ACT, and how idle the GPU is.

ACT in its default size trains with two cameras of 640 x 480 pixels and chunks of 100 actions, on a
dataset that is generated first. Three kinds of fits take turns: one trains on a single batch that
stays on the GPU, one reads through our loader, and one reads the same files through lerobot's
dataset in torch's loader, where lerobot is installed. The first is what the GPU can do; of the
others, the time that a step takes longer is time in which the GPU waits.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --batch-size 64 --workers 14
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch import Trainer as LightningTrainer
from torch.utils.data import DataLoader
from two_cameras import FPS, write_two_cameras

from getiaction.data import LeRobotDataModule
from getiaction.policies import ACT
from getiaction.train import Trainer

CHUNK_SIZE = 100
WARM_UP_STEPS = 20
NAME = "two_cameras"


class Clock(Callback):
    """Times the steps behind the first ones, with all of the GPU's work done at both ends."""

    def __init__(self) -> None:
        self.steps = 0
        self.seconds = self._start = 0.0

    def on_train_batch_end(self, trainer: LightningTrainer, *_: object) -> None:
        """Start behind the warm-up, and count."""
        if trainer.global_step == WARM_UP_STEPS:
            self._start = self._now()
        self.steps = trainer.global_step - WARM_UP_STEPS

    def on_train_end(self, *_: object) -> None:
        """Stop."""
        self.seconds = self._now() - self._start

    def _now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


class Repeated:
    """A loader that has nothing to load."""

    def __init__(self, batch: object, times: int) -> None:
        self._batch, self._times = batch, times

    def __len__(self) -> int:
        return self._times

    def __iter__(self) -> Iterator[object]:
        return itertools.repeat(self._batch, self._times)


class OneBatch(LeRobotDataModule):
    """Reads one batch, which is on its device before training begins."""

    def train_dataloader(self) -> Repeated:
        """Repeat the batch."""
        trainer: Any = self.trainer
        batch = next(iter(super().train_dataloader()))
        batch = self.on_before_batch_transfer(batch, 0)
        batch = self.transfer_batch_to_device(batch, trainer.strategy.root_device, 0)
        batch = self.on_after_batch_transfer(batch, 0)
        return Repeated(batch, trainer.max_steps)


class Lerobot(LeRobotDataModule):
    """Reads the same files through lerobot's own dataset."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Load as lerobot's training script does."""
        from lerobot.datasets.lerobot_dataset import LeRobotDataset  # type: ignore[import-not-found]

        dataset = LeRobotDataset(
            NAME,
            root=str(self.root),
            delta_timestamps={"action": [i / FPS for i in range(CHUNK_SIZE)]},
        )
        return DataLoader(
            dataset,
            batch_size=self.train_batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=int(self.num_workers),
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=2 if self.num_workers else None,
        )


def step_seconds(data: LeRobotDataModule, args: argparse.Namespace, folder: Path) -> float:
    """Train, and return how long a step takes."""
    torch.manual_seed(0)
    clock = Clock()
    policy = ACT(chunk_size=CHUNK_SIZE, n_action_steps=CHUNK_SIZE, pretrained_backbone_weights=None)
    trainer = Trainer(
        accelerator=args.accelerator,
        devices=1,
        precision=args.precision,
        max_steps=WARM_UP_STEPS + args.steps,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(policy, data)
    return clock.seconds / clock.steps


def main() -> None:
    """Measure all kinds in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=8, help="loader processes")
    parser.add_argument("--steps", type=int, default=100, help="timed steps of each fit")
    parser.add_argument("--runs", type=int, default=3, help="fits of each kind")
    parser.add_argument("--episodes", type=int, default=40, help="of 100 frames each")
    parser.add_argument("--precision", default="bf16-mixed")
    parser.add_argument("--accelerator", default="gpu", help="cpu, to try the benchmark itself")
    args = parser.parse_args()
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        parser.exit(3, "error: torch finds no GPU of CUDA here\n")
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kinds: dict[str, type[LeRobotDataModule]] = {"one batch": OneBatch, "ours": LeRobotDataModule}
    if importlib.util.find_spec("lerobot"):
        kinds["lerobot"] = Lerobot
    with tempfile.TemporaryDirectory() as directory:
        root = write_two_cameras(Path(directory) / NAME, args.episodes)
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        for name in [name for _ in range(args.runs) for name in kinds]:
            data = kinds[name](
                root=root, train_batch_size=args.batch_size, num_workers=args.workers
            )
            seconds[name].append(step_seconds(data, args, Path(directory)))
    report({name: statistics.median(each) for name, each in seconds.items()}, args)


def report(medians: dict[str, float], args: argparse.Namespace) -> None:
    """Print samples per second, the share of time in which the GPU waits, and the ratio."""
    device = torch.cuda.get_device_name() if args.accelerator == "gpu" else "CPU"
    print(
        f"{device}, {args.precision}, batch {args.batch_size}, {args.workers} loader processes,"
        f" median of {args.runs} fits of {args.steps} steps"
    )
    alone = medians["one batch"]
    for name, step in medians.items():
        idle = max(0.0, 1 - alone / step)
        print(f"{name:10} {args.batch_size / step:8.0f} samples/s, GPU idle {idle:4.0%}")
    limit = "reader" if medians["ours"] > 1.1 * alone else "GPU"  # within a tenth it is noise
    print(f"with our loader, the {limit} limits training")
    if "lerobot" in medians:
        print(f"ours / lerobot: {medians['lerobot'] / medians['ours']:.2f} times the samples/s")
    else:
        print("no ratio to lerobot's loader: it is not installed here")


if __name__ == "__main__":
    main()
