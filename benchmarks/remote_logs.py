"""Logging to object storage: seconds of a fit against a local disk, bytes sent against the log's.

    python tests/clusters/s3.py run -- python benchmarks/remote_logs.py

Four scalars are logged in each of 200 steps of a tiny model: by a run of the launcher on the URL,
by one on the disk, and by Lightning's ``TensorBoardLogger`` on the URL in a plain process, in turn.
TensorBoard reaches S3 by boto3 where that is installed, else by fsspec: both are timed.
Then a run logs 10,000 steps through a proxy that counts every byte that clients send, with the
requests' headers and the run's own records; the log is its event files and what it printed. The
copy of the code is not made, as it has nothing to do with logs.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from clusters.proxy import Proxy

LAUNCHER = [sys.executable, "-m", "getiaction_launch.cli"]
LIMIT_SECONDS = 3600
REMOTE, LOCAL = "launcher, URL", "launcher, disk"
RIVALS = {"boto3": "Lightning alone, URL, boto3", "fsspec": "Lightning alone, URL, fsspec"}


def main() -> None:
    """Measure in turn, print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="s3://bucket/logs")
    parser.add_argument("--runs", type=int, default=3, help="timed fits of each kind, at least 3")
    parser.add_argument("--steps", type=int, default=200, help="steps of a fit that is timed")
    parser.add_argument(
        "--counted-steps", type=int, default=10_000, help="steps of the fit whose bytes are counted"
    )
    parser.add_argument("--fit", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fit:
        place, steps, result, client = args.fit
        if client == "fsspec":
            sys.modules["boto3"] = None  # type: ignore[assignment] # importing it fails
        fit(os.environ.get("GETIACTION_RUN_DIR", place), int(steps), Path(result))
        return
    if args.runs < 3:  # noqa: PLR2004 - medians of fewer say little
        parser.error("--runs: at least 3")
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if not endpoint.startswith("http://"):
        parser.error("AWS_ENDPOINT_URL must be http://...: only its bytes can be counted")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GETIACTION_LAUNCH_STAGING_DIR"] = f"{folder}/staging"
        compare_seconds(args.url, Path(folder), args.runs, args.steps)
        count_bytes(args.url, Path(folder), args.counted_steps, endpoint)


def compare_seconds(url: str, folder: Path, runs: int, steps: int) -> None:
    """Fit in all ways in turn."""
    seconds: dict[str, list[float]] = {way: [] for way in (LOCAL, REMOTE, *RIVALS.values())}
    for number in range(runs):
        seconds[LOCAL].append(launched(str(folder), folder, steps)["seconds"])
        seconds[REMOTE].append(launched(url, folder, steps)["seconds"])
        for client, way in RIVALS.items():
            place = f"{url}/{client}_{number}"
            result = measured([sys.executable], folder, steps, place=place, client=client)
            seconds[way].append(result["seconds"])
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    for way, each in seconds.items():
        values = " ".join(f"{value:.2f}" for value in each)
        print(f"{way}: fit of {steps} logged steps {medians[way]:.2f} s, median of {values}")
    for way in (REMOTE, *RIVALS.values()):
        print(f"ratio of fits, {way} / {LOCAL}: {medians[way] / medians[LOCAL]:.2f}")


def count_bytes(url: str, folder: Path, steps: int, endpoint: str) -> None:
    """Fit once through a proxy."""
    with Proxy(endpoint) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        log_bytes = launched(url, folder, steps)["log_bytes"]
        os.environ["AWS_ENDPOINT_URL"] = endpoint
    print(f"log of {steps} steps: {log_bytes:.0f} bytes, {proxy.sent_bytes} bytes sent")
    print(f"ratio of bytes, sent / log: {proxy.sent_bytes / log_bytes:.2f}")


def launched(root: str, folder: Path, steps: int) -> dict[str, float]:
    """Fit by the launcher's one command; it returns when all is on storage."""
    words = ["--cluster", "local", "--wait", "--gpus-per-node", "0", "--storage-root", root]
    words += ["--no-snapshot"]  # a copy of this repository is no log
    return measured([*LAUNCHER, *words], folder, steps)


def measured(
    starter: list[str], folder: Path, steps: int, *, place: str = "", client: str = ""
) -> dict[str, float]:
    """Fit in another process, and return what it has measured.

    Args:
        starter: The command that runs this script.
        folder: Directory to run the command in.
        steps: How many steps to fit.
        place: Path or URL of the log's directory; a run of the launcher has its own.
        client: The client with which TensorBoard reaches S3: ``boto3`` or ``fsspec``.
    """
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    command = [*starter, __file__, "--fit", place, str(steps), str(result), client]
    log = folder / "fit.log"
    with log.open("wb") as output:
        code = subprocess.run(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_SECONDS,
            check=False,
        ).returncode
    if code:
        sys.exit(f"exit code {code}: {command}\n{log.read_text()}")
    answer: dict[str, float] = json.loads(result.read_text())
    return answer


def fit(place: str, steps: int, result: Path) -> None:
    """Log in each step, and write down the fit's duration and the log's size."""
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import TensorBoardLogger
    from torch.utils.data import DataLoader, TensorDataset

    class Tiny(LightningModule):
        """A model of one layer."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
            """Log four scalars, and print a line."""
            loss: torch.Tensor = self.layer(batch[0]).square().mean()
            rows = self.layer.weight[0]
            self.log_dict({"loss": loss, **{f"weight_{n}": rows[n] for n in range(3)}})
            print(f"step {batch_idx}: loss {loss:.6f}")
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            """Return any optimizer."""
            return torch.optim.SGD(self.parameters(), lr=0.01)

    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        log_every_n_steps=1,
        logger=TensorBoardLogger(place, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(TensorDataset(torch.rand(steps, 4)))
    started_at = time.perf_counter()
    trainer.fit(Tiny(), loader)
    seconds = time.perf_counter() - started_at
    sys.stdout.flush()
    logs = [path for name in ("*.tfevents.*", "*.log") for path in Path(place).rglob(name)]
    log_bytes = sum(path.stat().st_size for path in logs)
    result.write_text(json.dumps({"seconds": seconds, "log_bytes": log_bytes}))


if __name__ == "__main__":
    main()
