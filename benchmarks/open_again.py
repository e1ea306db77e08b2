"""CPU time and bytes read to open a dataset of a million frames whose rows are in the cache.

    python benchmarks/open_again.py

A rank finds the hashes of the data files in the cache, or reads all files to compute them, as it
does if they may have changed. They take turns. The files count as old, though they were written
just now.
"""

import math
import os
import statistics
import tempfile
import time
from pathlib import Path

import many_episodes
import psutil

from getiaction.data import LeRobotDataset, file_hashes

NUM_EPISODES, LENGTH, NUM_TURNS = 100, 10_000, 15
MB = 1e6
REMEMBERED, READ = "hashes in the cache", "files read"


def main() -> None:
    """Measure both in turns, and print medians and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GETIACTION_CACHE"] = f"{folder}/cache"
        root = Path(folder) / "dataset"
        many_episodes.LENGTH = LENGTH
        many_episodes.write_many_episodes(root, NUM_EPISODES)
        found = {REMEMBERED: [open_again(root, 0)], READ: [open_again(root, math.inf)]}
        for turns in found.values():
            turns.clear()  # the first one has written the rows
        for _ in range(NUM_TURNS):
            found[REMEMBERED].append(open_again(root, 0))
            found[READ].append(open_again(root, math.inf))
    medians = {
        way: [*map(statistics.median, zip(*turns, strict=True))] for way, turns in found.items()
    }
    for way, (cpu_s, read_bytes) in medians.items():
        print(f"{way}: {cpu_s:.2f} s CPU, {read_bytes / MB:.2f} MB read")
    ratios = [one / other for one, other in zip(medians[REMEMBERED], medians[READ], strict=True)]
    print(f"{REMEMBERED} / {READ}: CPU {ratios[0]:.2f}, bytes {ratios[1]:.4f}")


def open_again(root: Path, settled_after_seconds: float) -> tuple[float, int]:
    """Return the CPU seconds that opening a dataset takes, and how many bytes are read."""
    for kind in file_hashes.SETTLED_AFTER_SECONDS:
        file_hashes.SETTLED_AFTER_SECONDS[kind] = settled_after_seconds
    process = psutil.Process()
    start, read_bytes = time.process_time(), process.io_counters().read_chars
    LeRobotDataset(root=root)
    return time.process_time() - start, process.io_counters().read_chars - read_bytes


if __name__ == "__main__":
    main()
