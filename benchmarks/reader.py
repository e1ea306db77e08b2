"""Samples per second of LeRobotDataset against the same files read naively, as a ratio.

The naive reader does what the published layout suggests at first sight: it opens the video for
every sample, and turns each of the chunk's rows into Python objects. Both give equal samples,
which is checked first. Run: python benchmarks/reader.py
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader, Dataset

from getiaction.data import LeRobotDataset
from getiaction.demo.dot import FPS, write_dot_dataset

CHUNK_SIZE = 100
BATCH_SIZE = 16
NUM_BATCHES = 64
NUM_RUNS = 5
WORKERS = (0, 2)
SAMPLES_COMPARED = 20


class NaiveDataset(Dataset[dict[str, Any]]):
    """One video opened per sample, one Python object per number."""

    def __init__(self, root: Path) -> None:
        self.table = pq.read_table(root / "data/chunk-000/file-000.parquet")
        episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
        self.episodes = episodes.to_pylist()
        self.video = root / "videos/observation.image/chunk-000/file-000.mp4"

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {key: torch.tensor(v) for key, v in self._row(index).items()}
        episode = self.episodes[int(item["episode_index"])]
        first, last = episode["dataset_from_index"], episode["dataset_to_index"] - 1
        wanted = range(index, index + CHUNK_SIZE)
        rows = [self._row(min(i, last)) for i in wanted]
        item["action"] = torch.stack([torch.tensor(row["action"]) for row in rows])
        item["action_is_pad"] = torch.tensor([not first <= i <= last for i in wanted])
        start_s = episode["videos/observation.image/from_timestamp"]
        item["observation.image"] = self._frame(start_s + float(item["timestamp"]))
        item["task"] = episode["tasks"][0]
        return item

    def _row(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.table.slice(index, 1).to_pylist()[0]
        return row

    def _frame(self, time_s: float) -> torch.Tensor:
        with av.open(str(self.video)) as container:
            stream = container.streams.video[0]
            step_s = float(stream.time_base or 1)
            container.seek(round(time_s / step_s), stream=stream)
            for frame in container.decode(stream):
                if (frame.pts or 0) * step_s >= time_s - 0.5 / FPS:
                    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                    return pixels.permute(2, 0, 1).float() / 255
        msg = f"no frame at {time_s} s"
        raise ValueError(msg)


def samples_per_second(dataset: Dataset[dict[str, Any]], num_workers: int, seed: int) -> float:
    """Measure a shuffled loader, not counting its start.

    Args:
        dataset: The dataset to read from.
        num_workers: How many loader processes to use; 0 for none.
        seed: Seed of the order of samples.

    Returns:
        Samples that were read per second of wall time.
    """
    loader = DataLoader(
        dataset,
        batch_size=BATCH_SIZE,
        shuffle=True,
        drop_last=True,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
    )
    batches = iter(loader)
    next(batches)
    start = time.perf_counter()
    for _ in range(NUM_BATCHES):
        next(batches)
    return NUM_BATCHES * BATCH_SIZE / (time.perf_counter() - start)


def assert_equal(ours: LeRobotDataset, naive: NaiveDataset) -> None:
    """Stop unless both readers give the same samples."""
    for index in torch.randperm(len(ours))[:SAMPLES_COMPARED].tolist():
        one, other = ours[index], naive[index]
        for key, value in one.items():
            same = value == other[key] if key == "task" else torch.equal(value, other[key])
            if not same:
                message = f"{key} of frame {index} differs"
                raise SystemExit(message)


def main() -> None:
    """Measure both readers in turn and print the medians and their ratio."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = write_dot_dataset(Path(folder) / "dot", num_episodes=40, image_size_px=96)
        deltas = {"action": [i / FPS for i in range(CHUNK_SIZE)]}
        ours = LeRobotDataset(root=root, delta_timestamps=deltas)
        naive = NaiveDataset(root)
        assert_equal(ours, naive)
        print(f"samples/s, median of {NUM_RUNS} interleaved runs, chunk {CHUNK_SIZE}, 96 x 96 px")
        print("workers      ours     naive     ratio")
        for num_workers in WORKERS:
            rates = [
                [samples_per_second(dataset, num_workers, run) for dataset in (ours, naive)]
                for run in range(NUM_RUNS)
            ]
            fast, slow = (statistics.median(column) for column in zip(*rates, strict=True))
            ratio = statistics.median(one / other for one, other in rates)
            print(f"{num_workers:7d} {fast:9.0f} {slow:9.0f} {ratio:9.1f}")


if __name__ == "__main__":
    main()
