"""How long each checkpoint stops training: ours, Lightning's own, and one copy in memory.

The state is that of the default ACT with Adam, about 600 MB. The ways of saving take turns between
the batches of a real ``Trainer.fit``, so that a noisy machine disturbs them alike, and each waits
until the last write has ended. What is timed is how long the call stops training.

    python benchmarks/checkpoint_stall.py
    python benchmarks/checkpoint_stall.py --url s3://bucket/stall   # AWS_ENDPOINT_URL and keys set

Peak memory is that of a process of its own for each way of saving, above what training alone held
at most.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MB = 1_000_000
RSS_PERIOD_SECONDS = 0.005
WARM_UP_BATCHES = 4  # without saves
OURS, COPY, LOCAL, REMOTE = "ours", "one copy", "Lightning, local disk", "Lightning, URL"


def main() -> None:
    """Measure all, print medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5, help="timed saves of each kind, at least 3")
    parser.add_argument("--url", help="URL to which Lightning saves, too: s3://bucket/stall")
    parser.add_argument(
        "--parameters", type=int, default=None, help="number of parameters, to try a smaller state"
    )
    parser.add_argument("--ways", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ways:
        print(json.dumps(measure(args.ways, args.runs, args.url, args.parameters)))
        return
    if args.runs < 3:  # noqa: PLR2004 - medians of fewer say little
        parser.error("--runs: at least 3")
    ways = [OURS, COPY, LOCAL, *([REMOTE] if args.url else [])]
    results = run(ways, args.runs, args)
    state_mb = results["state_bytes"] / MB
    print(f"state: {state_mb:.0f} MB, {args.runs} saves of each in turn")
    medians = {way: statistics.median(seconds) for way, seconds in results["seconds"].items()}
    for way, seconds in results["seconds"].items():
        each = " ".join(f"{value:.3f}" for value in seconds)
        print(f"{way}: training stands still for {medians[way]:.3f} s, median of {each}")
    print(f"ours until it is on the disk: {statistics.median(results['durable']):.2f} s, median")
    for way in (COPY, LOCAL, *([REMOTE] if args.url else [])):
        print(f"ratio of stalls, ours / {way}: {medians[OURS] / medians[way]:.3f}")
    for way in (OURS, LOCAL, *([REMOTE] if args.url else [])):
        peak_bytes = run([way], 1, args)["peak_bytes"]
        ratio = peak_bytes / results["state_bytes"]
        print(f"{way}: peak memory above idle {peak_bytes / MB:.0f} MB, {ratio:.2f} of the state")
    if not args.url:
        print("no ratio to object storage: give --url s3://... and AWS's variables")


def run(ways: list[str], runs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure in a process of its own."""
    words = [sys.executable, __file__, "--runs", str(runs), "--ways", *ways]
    words += ["--url", args.url] if args.url else []
    words += ["--parameters", str(args.parameters)] if args.parameters else []
    output = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
    answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    return answer


class PeakMemory:
    """Samples the most memory that this process has held, until it is stopped."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def stop(self) -> int:
        """Stop sampling, and return the peak."""
        self._end.set()
        self._thread.join()
        return self.peak_bytes

    def _sample(self) -> None:
        import psutil

        process = psutil.Process()
        while not self._end.wait(RSS_PERIOD_SECONDS):
            self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)


def measure(ways: list[str], runs: int, url: str | None, parameters: int | None) -> dict[str, Any]:
    """Train, and save between batches in every way, in turn."""
    import torch
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import LambdaCallback
    from torch.utils.data import DataLoader

    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(parameters)
        saves = Saves(ways, runs, folder, url)
        # One frame: what is measured is not the training.
        data = DataLoader(
            torch.zeros(WARM_UP_BATCHES + len(ways) * (runs + 1) + 1, 1), batch_size=1
        )
        policy.train_dataloader = lambda: data
        Trainer(
            accelerator="cpu",
            max_epochs=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LambdaCallback(on_train_batch_end=saves.after_batch)],
        ).fit(policy)
    return saves.results


def make_policy(parameters: int | None) -> Any:  # noqa: ANN401 - a LightningModule
    """The default ACT, whose gradients are noise; or a plain layer of that many parameters."""
    import torch
    from lightning.pytorch import LightningModule

    from getiaction.policies import ACT

    class Noise(LightningModule):
        """Changes every parameter in every step."""

        def __init__(self) -> None:
            super().__init__()
            if parameters:
                self.model: Any = torch.nn.Linear(parameters // 10, 10)
                return
            vector = {"shape": [2], "mean": [0.0] * 2, "std": [1.0] * 2}
            stats = {
                "observation.image": {"type": "VISUAL", "shape": [3, 96, 96]},
                "observation.state": {"type": "STATE", **vector},
                "action": {"type": "ACTION", **vector},
            }
            self.model = ACT(pretrained_backbone_weights=None, dataset_stats=stats).model

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
            """All parameters, and nothing of the policy's own work."""
            del batch, batch_idx
            return torch.stack([each.sum() for each in self.parameters()]).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            """As ACT's."""
            return torch.optim.AdamW(self.parameters(), lr=1e-5)

    return Noise()


class Saves:
    """Saves after each batch in another way and takes the time."""

    def __init__(self, ways: list[str], runs: int, folder: str, url: str | None) -> None:
        self.ways, self.runs, self.folder, self.url = ways, runs, Path(folder), url
        self.seconds: dict[str, list[float]] = {way: [] for way in ways}
        self.durable: list[float] = []
        self.results: dict[str, Any] = {}
        self.buffers: list[Any] = []
        self.batch = -WARM_UP_BATCHES
        self.peak = PeakMemory()

    def after_batch(self, trainer: Any, *_: object) -> None:  # noqa: ANN401 - a Trainer
        """Save; the first of each way does not count, but its memory does."""
        self.batch += 1
        if self.batch < 1:
            return
        if self.batch == 1:
            self.set_up(trainer)
            self.idle_bytes = self.peak.stop()
            self.peak = PeakMemory()
        if self.batch > len(self.ways) * (self.runs + 1):
            self.collect()
            return
        way = self.ways[(self.batch - 1) % len(self.ways)]
        start = time.perf_counter()
        self.act[way]()
        stall = time.perf_counter() - start
        self.saver_io.wait()
        durable = time.perf_counter() - start
        if self.batch > len(self.ways):
            self.seconds[way].append(stall)
            if way == OURS:
                self.durable.append(durable)

    def set_up(self, trainer: Any) -> None:  # noqa: ANN401 - a Trainer
        """Make what each way needs."""
        import torch

        from getiaction_launch.run.run import Run
        from getiaction_launch.worker.progress import ProgressReport
        from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO
        from getiaction_launch.worker.saving.saver import CheckpointSaver

        run = Run(self.folder / "act" / "version_0")
        run.launch_directory.mkdir(parents=True)
        progress = ProgressReport(run)
        base = trainer.strategy.checkpoint_io
        self.saver_io = BackgroundCheckpointIO(base, progress, run, lambda _: True)
        saver = CheckpointSaver(run, progress, 0, failure_limit_minutes=30)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint()  # noqa: SLF001 - no public door
        tensors: list[torch.Tensor] = []
        collect(checkpoint, tensors)
        self.state_bytes = sum(tensor.nbytes for tensor in tensors)
        if COPY in self.ways:
            self.buffers = [torch.empty_like(tensor) for tensor in tensors]

        def copy() -> None:
            for buffer, tensor in zip(self.buffers, tensors, strict=True):
                buffer.copy_(tensor)

        def ours() -> None:
            trainer.strategy.checkpoint_io = self.saver_io
            saver.save(trainer, 0, "period")
            trainer.strategy.checkpoint_io = base

        def lightnings(place: str) -> Callable[[], None]:
            return lambda: trainer.save_checkpoint(f"{place}/lightning.ckpt")

        self.act = {
            OURS: ours,
            COPY: copy,
            LOCAL: lightnings(str(self.folder)),
            REMOTE: lightnings(str(self.url)),
        }

    def collect(self) -> None:
        """Keep what was measured."""
        self.saver_io.close()
        self.results = {
            "seconds": self.seconds,
            "durable": self.durable,
            "state_bytes": self.state_bytes,
            "peak_bytes": self.peak.stop() - self.idle_bytes,
        }


def collect(content: Any, tensors: list[Any]) -> None:  # noqa: ANN401 - a checkpoint's
    """Find all tensors."""
    import torch

    if isinstance(content, torch.Tensor):
        tensors.append(content.detach())
    elif isinstance(content, dict):
        for value in content.values():
            collect(value, tensors)
    elif isinstance(content, list | tuple):
        for value in content:
            collect(value, tensors)


if __name__ == "__main__":
    main()
