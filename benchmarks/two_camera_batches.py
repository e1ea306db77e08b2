"""CPU time and bytes of a batch of two cameras, from the files to the parent process of a loader.

Samples have two images of 640 x 480 and a chunk of 100 actions. Compared are the loader of
LeRobotDataModule, whose images are bytes until they are on the device; the same dataset in a plain
DataLoader, which stacks float32 samples; and lerobot's dataset in a plain DataLoader, as its own
training has it. Each lives in a process of its own, and they take turns. CPU time is that of the
process and its loader processes; their start is left out, by the difference of a long and a short
epoch. Without a GPU nothing is pinned: on one, torch copies each byte of a batch once more.

    python benchmarks/two_camera_batches.py
    python benchmarks/two_camera_batches.py --lerobot-python path/to/venv/bin/python
"""

import argparse
import resource
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rivals import answer_turns, take_turns

CHUNK_SIZE, BATCH_SIZE, NUM_WORKERS = 100, 8, 2
SHORT, LONG = 4, 40  # batches of an epoch
FPS = 30
DELTAS = {"action": [i / FPS for i in range(CHUNK_SIZE)]}


def main() -> None:
    """Run all, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lerobot-python", default=sys.executable, help="python that has lerobot")
    parser.add_argument("--runs", type=int, default=5, help="turns of each")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        answer_turns(partial(prepare, LOADERS[args.serve[0]], args.serve[1]))
        return
    from two_cameras import write_two_cameras

    with tempfile.TemporaryDirectory() as folder:
        root = write_two_cameras(Path(folder) / "two", num_episodes=10)
        pythons = {"bytes": sys.executable, "floats": sys.executable}
        pythons["lerobot"] = args.lerobot_python
        commands = {
            name: [python, __file__, "--serve", name, str(root)] for name, python in pythons.items()
        }
        found = take_turns(commands, args.runs)
    for name, answers in found.items():
        times = [answer["cpu_ms"] for answer in answers]
        ratios = [
            mine["cpu_ms"] / other["cpu_ms"]
            for mine, other in zip(found["bytes"], answers, strict=True)
        ]
        print(
            f"{name}: {statistics.median(times):.2f} ms CPU and {answers[0]['bytes'] / 1e6:.2f} MB"
            f" per sample ({' '.join(f'{each:.2f}' for each in times)});"
            f" bytes / {name}: {statistics.median(ratios):.2f}"
        )
    if "lerobot" not in found:
        print("no lerobot: pip install lerobot==0.4.4 somewhere and give --lerobot-python")


def prepare(
    make: Callable[[str], Callable[[int], Any]], root: str
) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
    """Make the function that reads two epochs, and returns what a sample has cost."""
    make_loader = make(root)

    def cost() -> dict[str, Any]:
        (short, _), (long, size) = (read(make_loader(batches)) for batches in (SHORT, LONG))
        return {"cpu_ms": 1000 * (long - short) / ((LONG - SHORT) * BATCH_SIZE), "bytes": size}

    return {"workers": NUM_WORKERS}, cost


def read(loader: Any) -> tuple[float, float]:  # noqa: ANN401 - of any class
    """Return CPU seconds of an epoch, with those of its processes, and bytes of a sample."""
    start, size = cpu_seconds(), 0.0
    for batch in loader:
        parts = [getattr(value, "pixels", value) for value in batch.values()]
        size = sum(getattr(part, "nbytes", 0) for part in parts) / BATCH_SIZE
    return cpu_seconds() - start, size


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def options(dataset: Any, batches: int) -> dict[str, Any]:  # noqa: ANN401 - of any class
    """Return what all loaders have in common: random samples, the same in each epoch."""
    import torch

    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    return {
        "batch_size": BATCH_SIZE,
        "num_workers": NUM_WORKERS,
        "sampler": order[: batches * BATCH_SIZE],
    }


def make_bytes(root: str) -> Callable[[int], Any]:
    """Make loaders as LeRobotDataModule does it in a Trainer."""
    import torch

    from getiaction.data import LeRobotDataset
    from getiaction.data.batch import WholeBatches
    from getiaction.data.loader import BatchLoader

    dataset = LeRobotDataset(root=root, delta_timestamps=DELTAS)
    collate = WholeBatches(dataset.object_keys, torch.float32)
    return lambda batches: BatchLoader(dataset, collate_fn=collate, **options(dataset, batches))


def make_floats(root: str) -> Callable[[int], Any]:
    """Make torch's loaders of this package's dataset."""
    from torch.utils.data import DataLoader

    from getiaction.data import LeRobotDataset

    dataset = LeRobotDataset(root=root, delta_timestamps=DELTAS)
    return lambda batches: DataLoader(dataset, **options(dataset, batches))


def make_lerobot(root: str) -> Callable[[int], Any]:
    """Make torch's loaders of lerobot's dataset."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from torch.utils.data import DataLoader

    dataset = LeRobotDataset("two/arms", root, delta_timestamps=DELTAS, video_backend="pyav")
    return lambda batches: DataLoader(dataset, **options(dataset, batches))


LOADERS = {"bytes": make_bytes, "floats": make_floats, "lerobot": make_lerobot}

if __name__ == "__main__":
    main()
