"""Memory that a dataset of a million frames takes on a node with two ranks of two loaders each.

Compared are rows that are mapped from the cache, as large datasets have them, with rows in the
memory of each process. Loader processes are forked, or spawned, as other platforms start them. A
process counts with its own memory and its share of what it has in common with others, which the
kernel calls its proportional set size. What all of it takes with a dataset of a thousand frames is
subtracted.

    python benchmarks/reader_memory.py
"""

import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import many_episodes
import psutil

LENGTH, CHUNK_SIZE, BATCH_SIZE, NUM_BATCHES = 1000, 100, 8, 200
NUM_RANKS, NUM_WORKERS = 2, 2
MB = 1e6


def main() -> None:
    """Measure all, and print what a million frames take."""
    with tempfile.TemporaryDirectory() as folder:
        roots = {count: Path(folder) / str(count) for count in (1000, 1)}
        many_episodes.LENGTH = LENGTH
        for many_episodes.NUM_EPISODES, root in roots.items():
            many_episodes.write_many_episodes(root)
        os.environ["GETIACTION_CACHE"] = f"{folder}/cache"
        for method in ("fork", "spawn"):
            node, worker, _ = measure(roots[1], method, is_mapped=False)
            totals = []
            for is_mapped in (True, False):
                measure(roots[1000], method, is_mapped=is_mapped)  # as every start but the first
                million, own, cpu_s = measure(roots[1000], method, is_mapped=is_mapped)
                totals.append(million - node)
                print(
                    f"{method}, {'mapped' if is_mapped else 'in memory'}: a million frames take"
                    f" {totals[-1]:.0f} MB of the node, of which {own - worker:.0f} MB are one"
                    f" loader's own; setup of a rank {cpu_s:.2f} s CPU"
                )
            print(f"{method}: mapped / in memory: {totals[0] / totals[1]:.2f}")


def measure(root: Path, method: str, *, is_mapped: bool) -> tuple[float, float, float]:
    """Return MB of all processes and of one loader process alone, and CPU seconds of a setup."""
    context = multiprocessing.get_context("spawn")
    found: Any = context.Queue()
    barrier = context.Barrier(NUM_RANKS + 1)
    ranks = [
        context.Process(target=be_rank, args=(root, method, is_mapped, found, barrier))
        for _ in range(NUM_RANKS)
    ]
    for rank in ranks:
        rank.start()
    setups = [found.get(timeout=600) for _ in ranks]
    barrier.wait(600)
    # A spawned loader process has one more beside it, which takes care of shared memory.
    processes = [psutil.Process(rank.pid) for rank in ranks]
    loaders = [child for rank in processes for child in rank.children() if is_loader(child)]
    node = sum(process.memory_full_info().pss for process in (*processes, *loaders))
    own = max(loader.memory_full_info().uss for loader in loaders)
    barrier.wait(600)
    for rank in ranks:
        rank.join(600)
    return node / MB, own / MB, min(setups)


def is_loader(process: psutil.Process) -> bool:
    """Return whether a child of a rank reads samples."""
    return "resource_tracker" not in " ".join(process.cmdline())


def be_rank(root: Path, method: str, is_mapped: bool, found: Any, barrier: Any) -> None:  # noqa: ANN401 - of multiprocessing
    """Open the dataset, read with loader processes, and keep them until they are measured."""
    import torch

    from getiaction.data import LeRobotDataset, column_cache
    from getiaction.data.batch import WholeBatches
    from getiaction.data.loader import BatchLoader, EpochSampler

    if not is_mapped:
        column_cache.MIN_BYTES = sys.maxsize
    deltas = {"action": [i / many_episodes.FPS for i in range(CHUNK_SIZE)]}
    start = time.process_time()
    dataset = LeRobotDataset(root=root, delta_timestamps=deltas)
    setup_s = time.process_time() - start
    loader = BatchLoader(
        dataset,
        batch_size=BATCH_SIZE,
        sampler=EpochSampler(dataset, num_replicas=1, rank=0, seed=0),
        num_workers=NUM_WORKERS,
        collate_fn=WholeBatches(dataset.object_keys, torch.float32),
        multiprocessing_context=method,
    )
    batches = iter(loader)
    for _ in range(min(NUM_BATCHES, len(loader) - 2 * NUM_WORKERS)):
        next(batches)
    found.put(setup_s)
    barrier.wait(600)
    barrier.wait(600)
    del batches


if __name__ == "__main__":
    main()
