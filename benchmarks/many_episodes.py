"""CPU time to open a dataset in the format v2.1 with one parquet file per episode.

The rival reads the same columns of all files by pyarrow.dataset, and checks nothing. They take
turns.

    python benchmarks/many_episodes.py
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from getiaction.data import LeRobotDataset

NUM_EPISODES, LENGTH, FPS, NUM_JOINTS = 5000, 50, 30, 14
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
NUM_TURNS = 3
INDEX = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def write_many_episodes(
    root: Path, num_episodes: int = NUM_EPISODES, videos: Mapping[str, Path] | None = None
) -> None:
    """Write a dataset whose numbers are random.

    Args:
        root: Local folder to write.
        num_episodes: Number of episodes, of 50 frames each.
        videos: For each camera, a video of 32 x 32 pixels that every episode has.
    """
    videos = videos or {}
    joints = {"dtype": "float32", "shape": [NUM_JOINTS], "names": None}
    features: dict[str, Any] = {"observation.state": joints, "action": joints}
    features |= {k: {"dtype": dtype, "shape": [1], "names": None} for k, dtype in INDEX.items()}
    features |= {k: {"dtype": "video", "shape": [32, 32, 3], "names": None} for k in videos}
    info = {
        "codebase_version": "v2.1",
        "fps": FPS,
        "features": features,
        "total_episodes": num_episodes,
        "total_frames": num_episodes * LENGTH,
        "chunks_size": 1000,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": VIDEO_PATH if videos else None,
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info), encoding="utf-8")
    task = {"task_index": 0, "task": "Move."}
    (root / "meta/tasks.jsonl").write_text(json.dumps(task) + "\n", encoding="utf-8")
    rng, steps = np.random.default_rng(0), np.arange(LENGTH)
    lines = []
    for number in range(num_episodes):
        lines.append({"episode_index": number, "tasks": ["Move."], "length": LENGTH})
        vectors = rng.normal(size=(2, LENGTH * NUM_JOINTS)).astype(np.float32)
        columns = {
            key: pa.FixedSizeListArray.from_arrays(pa.array(values), NUM_JOINTS)
            for key, values in zip(("observation.state", "action"), vectors, strict=True)
        }
        columns |= {
            "timestamp": pa.array((steps / FPS).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(LENGTH, number)),
            "index": pa.array(number * LENGTH + steps),
            "task_index": pa.array(np.zeros(LENGTH, np.int64)),
        }
        file = root / f"data/chunk-{number // 1000:03d}/episode_{number:06d}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file)
        for camera, video in videos.items():
            file = root / VIDEO_PATH.format(
                episode_chunk=number // 1000, episode_index=number, video_key=camera
            )
            file.parent.mkdir(parents=True, exist_ok=True)
            os.link(video, file)
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (root / "meta/episodes.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Measure both in turn, and print medians and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "many"
        write_many_episodes(root)
        turns = []
        for _ in range(NUM_TURNS):
            start = time.process_time()
            LeRobotDataset(root=root)
            middle = time.process_time()
            pyarrow.dataset.dataset(root / "data", format="parquet").to_table()
            turns.append((middle - start, time.process_time() - middle))
    ours, theirs = (statistics.median(column) for column in zip(*turns, strict=True))
    ratio = statistics.median(mine / yours for mine, yours in turns)
    print(f"{NUM_EPISODES} episodes: {ours:.2f} s CPU, pyarrow.dataset {theirs:.2f} s, {ratio:.2f}")


if __name__ == "__main__":
    main()
