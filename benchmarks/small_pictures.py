"""CPU time of a sample with one picture of 96 x 96, from files to the parent of 2 loader processes.

Samples have a chunk of 100 actions. Four loaders take turns: that of LeRobotDataModule; the same
where each tensor of a batch has shared memory of its own, as torch sends them; the same after an
epoch with GETIACTION_FRAMES_GB, by which decoded pictures are kept; and the same dataset in torch's
loader. CPU time is that of the process and its loader processes; their
start is left out, by the difference of a long and a short epoch.

    python benchmarks/small_pictures.py
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.data import DataLoader
from two_camera_batches import read

from getiaction.data import LeRobotDataset, batch
from getiaction.data.batch import WholeBatches
from getiaction.data.loader import BatchLoader
from getiaction.demo import write_dot_dataset

CHUNK_SIZE, BATCH_SIZE, NUM_WORKERS = 100, 16, 2
SHORT, LONG = 20, 220  # batches of an epoch


def main() -> None:
    """Measure all loaders in turn, and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="turns of each")
    parser.add_argument("--image-size-px", type=int, default=96)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = write_dot_dataset(
            Path(folder) / "dot", num_episodes=40, image_size_px=args.image_size_px
        )
        dataset = LeRobotDataset(root=root)
        dataset.delta_indices = {"action": range(CHUNK_SIZE)}
        collate = WholeBatches(dataset.object_keys, torch.float32)
        ours = partial(BatchLoader, dataset, collate_fn=collate)
        with patch.dict(os.environ, {"GETIACTION_FRAMES_GB": "1"}):
            keeping = LeRobotDataset(root=root)
        keeping.delta_indices = dataset.delta_indices
        kept = partial(BatchLoader, keeping, collate_fn=collate)
        read(kept(batch_size=BATCH_SIZE, num_workers=NUM_WORKERS))
        apart = patch.object(batch, "share_in_one_block", batch.unchanged)
        kinds = {
            "ours": partial(cost, ours),
            "memory for each tensor": partial(within, apart, ours),
            "decoded pictures kept": partial(cost, kept),
            "torch's loader": partial(cost, partial(DataLoader, dataset)),
        }
        found: dict[str, list[float]] = {name: [] for name in kinds}
        for _ in range(args.runs):
            for name, kind in kinds.items():
                found[name].append(kind())
    for name, times in found.items():
        ratios = [mine / other for mine, other in zip(found["ours"], times, strict=True)]
        print(
            f"{name}: {statistics.median(times):.3f} ms CPU per sample"
            f" ({' '.join(f'{each:.3f}' for each in times)});"
            f" ours / {name}: {statistics.median(ratios):.2f}"
        )


def cost(make: Callable[..., Any]) -> float:
    """Return the CPU milliseconds of a sample."""
    count = len(make(batch_size=1).dataset)
    random = torch.Generator().manual_seed(0)
    order = torch.randint(count, (LONG * BATCH_SIZE,), generator=random).tolist()
    seconds = [
        read(
            make(
                batch_size=BATCH_SIZE,
                num_workers=NUM_WORKERS,
                sampler=order[: batches * BATCH_SIZE],
            )
        )[0]
        for batches in (SHORT, LONG)
    ]
    return 1000 * (seconds[1] - seconds[0]) / ((LONG - SHORT) * BATCH_SIZE)


def within(change: Any, make: Callable[..., Any]) -> float:  # noqa: ANN401 - a patcher
    """Return the cost with a change of the code, which loader processes inherit."""
    with change:
        return cost(make)


if __name__ == "__main__":
    main()
