"""Kill a run that saves all the time at random instants: is a checkpoint torn or lost?

    python benchmarks/storage_drill.py                              # on this machine's disk
    python tests/clusters/s3.py run -- python benchmarks/storage_drill.py --root s3://bucket/drill

Every number in the run's state, about 32 MB, is the optimizer step that it belongs to, so a
checkpoint that mixes two steps is noticed. A generator with a seed chooses the instants and the
victims: the worker; the node's process with its worker; for a run on a URL also the machine, with
all files on its disk. The committed checkpoints are watched on storage all the time, and every
checkpoint that the run has reported must survive. The exit code is 1 if any is torn or lost.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, open_path, read_bytes, read_json

LAUNCHER = [sys.executable, "-m", "getiaction_launch.cli"]
CLUSTER = """
backend: {class_path: getiaction_launch.backends.local.LocalBackend}
saving: {period_minutes: 0.005}
uploading: {period_seconds: 2}
restarts: {crashes: 1000000, node_failures: 1000000}
"""
LIMIT_SECONDS = 180
POLL_SECONDS = 0.05
WATCH_SECONDS = 0.2
TRAINING_SECONDS = 4.0  # some saves, also on S3
STARTING_SECONDS = 1.5  # for downloads and imports
STARTING_SHARE = 0.2  # of the kills of nodes and machines
WORKER, NODE, MACHINE = "worker", "node", "machine"
EPOCH = 4  # steps; at the end of each it saves
PIECES, PIECE = 4, 1_000_000  # numbers of the parameters
LARGE = 4_000_000  # numbers of the buffer
TORN, LOST, OLDER, DAMAGED, FAILED = (
    "torn resumes",
    "lost commits",
    "resumes older than committed",
    "damaged commits",
    "attempts that failed undisturbed",
)
FAULTS = (TORN, LOST, OLDER, DAMAGED, FAILED)


class DrillError(Exception):
    """The drill cannot continue."""


def main() -> None:
    """Kill, let the run finish and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="directory or URL for the run")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        train(args.train)
        return
    folder = Path(tempfile.mkdtemp(prefix="storage_drill_"))
    os.environ["GETIACTION_LAUNCH_STAGING_DIR"] = str(folder / "staging")
    started_at = time.monotonic()
    drill = Drill(folder, args.root or str(folder), args.seed)
    try:
        drill.start()
        for number in range(args.kills):
            drill.strike()
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{number + 1} of {args.kills} kills ")
        drill.finish()
    except DrillError as error:
        drill.faults[FAILED] += 1
        print(f"error: {error}")
    finally:
        drill.cancel()
    drill.report()
    print(f"seconds: {time.monotonic() - started_at:.0f}")
    if drill.faults.total():
        sys.exit(f"see {folder} and {drill.run.directory}")
    shutil.rmtree(folder)


class Drill:
    """One run, which is killed again and again.

    Args:
        folder: Directory for files of the drill that are not the run's.
        root: Directory or URL for the run.
        seed: Seed for the choice of victims and instants.

    Attributes:
        run: The run, once it has been submitted.
        faults: How often each of :data:`FAULTS` was seen.
    """

    def __init__(self, folder: Path, root: str, seed: int) -> None:
        self._folder, self._root = folder, root
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._victims: list[str] = []
        self._attempt = 0
        # The newest steps that were ever committed: on storage, and on a machine that still lives.
        self._stored = self._staged = 0
        self._trained: int | None = None  # how far the last one was, if it trained
        self._steps_lost: list[int] = []
        self._kills: Counter[str] = Counter()
        self._moments: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def start(self) -> None:
        """Submit the run."""
        cluster = self._folder / "cluster.yaml"
        cluster.write_text(CLUSTER)
        (self._folder / "step").write_text(f"{0:12}")
        words = ["--cluster", str(cluster), "--storage-root", self._root, "--name", "drill"]
        script = [__file__, "--train", str(self._folder)]
        result = subprocess.run(
            [*LAUNCHER, *words, "--parsable", "--gpus-per-node", "0", *script],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=LIMIT_SECONDS,
        )
        self.run = Run(open_path(result.stdout.strip()))
        self._job = psutil.Process((self.run.read("job") or {})["process"]["pid"])

    def strike(self) -> None:
        """Kill at a random instant; then see what has survived."""
        kind = self._choose()
        while_starting = kind != WORKER and self._random.random() < STARTING_SHARE
        node = self._await_node()
        if not while_starting:
            self._await_training()
        longest = STARTING_SECONDS if while_starting else TRAINING_SECONDS
        self._watch(self._random.uniform(0, longest))
        self._job.suspend()  # so that no attempt begins before all is wiped and looked at
        try:
            workers = node.children() if _is_alive(node) else []
            if not (workers or while_starting):
                raise DrillError(f"attempt {self._attempt} ended undisturbed; {self._logs()}")
            victims = workers if kind == WORKER else [node, *workers]
            for victim in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    victim.kill()
            self._until(lambda: not any(map(_is_alive, victims)), "the victims are dead")
            self._kills[f"{kind}, starting" if while_starting else kind] += 1
            self._trained = None if while_starting else int((self._folder / "step").read_text())
            self._count_moment(kind)
            self._look()
            if kind == MACHINE:
                shutil.rmtree(self._folder / "staging", ignore_errors=True)
                self._staged = 0
            self._check_newest()
        finally:
            self._job.resume()
        self._attempt += 1

    def _choose(self) -> str:
        """Choose what to kill: in each round all kinds, in random order."""
        if not self._victims:
            self._victims = [WORKER, NODE, *([MACHINE] if "://" in self._root else [])]
            self._random.shuffle(self._victims)
        return self._victims.pop()

    def finish(self) -> None:
        """Let the run finish, and check its newest checkpoint."""
        self._await_node()
        self._await_training()
        (self._folder / "finish").touch()
        self._until(lambda: self.run.read("done"), "the run has finished")
        self._until(lambda: not _is_alive(self._job), "its job process has ended")
        self.faults[LOST] += _newest_step(self.run) < self._committed
        self._check_newest()
        self.faults[TORN] += not self._reported(self._attempt, "ended").get("is_whole")

    def cancel(self) -> None:
        """End what still runs."""
        if hasattr(self, "_job") and _is_alive(self._job):
            subprocess.run([*LAUNCHER, "cancel", str(self.run.directory)], check=False)

    def report(self) -> None:
        """Print all counts."""
        each = ", ".join(f"{count} of the {kind}" for kind, count in sorted(self._kills.items()))
        print(f"kills: {self._kills.total()} ({each})")
        for moment, count in sorted(self._moments.items()):
            print(f"of these while {moment}: {count}")
        for fault in FAULTS:
            print(f"{fault}: {self.faults[fault]}")
        if self._steps_lost:
            median = statistics.median(self._steps_lost)
            print(
                f"steps to train again: {median:.0f} at the median, {max(self._steps_lost)} at most"
            )
        if hasattr(self, "run"):
            committed = {path.stem for path, _ in _markers(self.run)}
            files = children(self.run.launch_directory / "checkpoints")
            litter = [path for path in files if path.stem not in committed]
            print(f"files of uncommitted checkpoints left on storage: {len(litter)}")

    def _await_node(self) -> psutil.Process:
        """Wait for the attempt's node, and check from which step it resumes."""
        found: list[psutil.Process] = []

        def has_begun() -> bool:
            for process in self._job.children():
                with contextlib.suppress(psutil.Error):
                    if f"--attempt {self._attempt} " in " ".join(process.cmdline()):
                        found.append(process)
            return bool(found)

        self._until(has_begun, "an attempt has begun")
        first_step = (self.run.read(f"attempt_{self._attempt}") or {})["first_step"]
        if first_step < self._committed:
            self.faults[OLDER] += 1
        if _newest_step(self.run) < self._committed:
            self.faults[LOST] += 1
        if self._trained is not None:
            self._steps_lost.append(self._trained - first_step)
            self._trained = None
        self._first_step = first_step
        return found[0]

    def _await_training(self) -> None:
        """Wait until the worker has loaded the checkpoint that it resumes from."""
        self._until(lambda: self._reported(self._attempt, "step"), "training has begun")
        loaded = self._reported(self._attempt, "step")
        if loaded != {"attempt": self._attempt, "step": self._first_step, "is_whole": True}:
            self.faults[TORN] += 1
            raise DrillError(f"it resumes at {self._first_step} with {loaded}; {self._logs()}")

    def _logs(self) -> str:
        return f"see {self.run.local.log_directory(self._attempt)} or {self.run.directory}"

    def _reported(self, attempt: int, key: str) -> dict[str, Any]:
        """Return what the worker of an attempt has reported; empty if it has not."""
        path = self._folder / "reports"
        lines = path.read_text().splitlines() if path.exists() else []
        said: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return next((line for line in said if line["attempt"] == attempt and key in line), {})

    @property
    def _committed(self) -> int:
        """The least step that an attempt may begin with."""
        return max(self._stored, self._staged)

    def _watch(self, seconds: float) -> None:
        """Look at what is committed, again and again."""
        deadline = time.monotonic() + seconds
        self._look()
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, WATCH_SECONDS))
            self._look()

    def _look(self) -> None:
        """Remember which step is committed, or was reported as committed."""
        local = self.run.local
        reported = (local.read("progress") or {}).get("checkpoint_step") or 0
        self._stored = max(self._stored, _newest_step(self.run))
        self._staged = max(self._staged, _newest_step(local), reported)

    def _count_moment(self, kind: str) -> None:
        """Count what the run was doing when it was killed."""
        local = self.run.local
        directory = local.launch_directory / "checkpoints"
        if any(path.suffix == ".partial" for path in children(directory)):
            self._moments["a checkpoint was being written or downloaded"] += 1
        if kind != WORKER and _newest_step(local) > _newest_step(self.run):
            self._moments["a committed checkpoint was not yet on storage"] += 1

    def _check_newest(self) -> None:
        """Load the newest checkpoint on storage."""
        step = _newest_step(self.run)
        if not step:
            return
        (path, *_) = [path for path, marked in _markers(self.run) if marked == step]
        try:
            content = io.BytesIO(read_bytes(path.with_suffix(".ckpt")))
            checkpoint = torch.load(content, weights_only=True)
        except Exception as error:  # noqa: BLE001 - any failure to load it counts
            print(f"{path.with_suffix('.ckpt')}: {type(error).__name__}: {error}")
            self.faults[DAMAGED] += 1
        else:
            self.faults[DAMAGED] += not is_whole(checkpoint, step)

    def _until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition, unless the run fails undisturbed or the limit has passed."""
        deadline = time.monotonic() + LIMIT_SECONDS
        look_at = time.monotonic() + 1
        while not condition():
            if time.monotonic() > deadline:
                raise DrillError(f"not in {LIMIT_SECONDS} s: {what}; {self._logs()}")
            if time.monotonic() > look_at:
                look_at = time.monotonic() + 1
                record = self.run.read(f"attempt_{self._attempt}") or {}
                if record.get("state", "RUNNING") not in ("RUNNING", "SUCCEEDED"):
                    raise DrillError(f"attempt {self._attempt}: {record['reason']}; {self._logs()}")
                if not _is_alive(self._job) and not self.run.read("done"):
                    raise DrillError(f"the job process has ended; {self._logs()}")
            time.sleep(POLL_SECONDS)


def _markers(run: Run) -> list[tuple[Path, int]]:
    """The marker of every committed checkpoint, and its step."""
    paths = [p for p in children(run.launch_directory / "checkpoints") if p.suffix == ".json"]
    return [(path, marker["step"]) for path in paths if (marker := read_json(path))]


def _newest_step(run: Run) -> int:
    return max((step for _, step in _markers(run)), default=0)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_whole(checkpoint: dict[str, Any], step: int) -> bool:
    """Whether every number of a checkpoint is of one step."""
    values = checkpoint["state_dict"].values()
    return checkpoint["global_step"] == step and all(bool((each == step).all()) for each in values)


class Steps(LightningModule):
    """A model in which every number is the number of steps taken.

    Args:
        folder: Directory of the files by which the drill follows and ends training.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        pieces = [torch.nn.Parameter(torch.zeros(PIECE)) for _ in range(PIECES)]
        self.pieces = torch.nn.ParameterList(pieces)
        self.large: torch.Tensor
        self.register_buffer("large", torch.zeros(LARGE))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of several steps."""
        if not is_whole(checkpoint, checkpoint["global_step"]):
            self._report(step=checkpoint["global_step"], is_whole=False)
            raise RuntimeError("TORN")

    def on_train_start(self) -> None:
        """Report from which step training resumes."""
        self._report(step=self.trainer.global_step, is_whole=self._is_whole())

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Return a loss whose gradient is -1 everywhere, so that SGD adds 1."""
        del batch, batch_idx
        return -torch.stack([piece.sum() for piece in self.pieces]).sum()

    def on_train_batch_end(self, *_: object) -> None:
        """Set the buffer to the same step."""
        step = self.trainer.global_step
        self.large.fill_(step)
        # The file keeps its length, so a reader never sees a part of it.
        with (self._folder / "step").open("r+") as file:
            file.write(f"{step:12}")
        if (self._folder / "finish").exists():
            self.trainer.should_stop = True

    def on_train_end(self) -> None:
        """Report whether all numbers are of the last step."""
        self._report(ended=self.trainer.global_step, is_whole=self._is_whole())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD, which adds 1 in each step."""
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def _is_whole(self) -> bool:
        step = self.trainer.global_step
        return is_whole({"global_step": step, "state_dict": self.state_dict()}, step)

    def _report(self, **words: Any) -> None:  # noqa: ANN401 - JSON values
        line = {"attempt": int(os.environ["GETIACTION_LAUNCH_ATTEMPT"]), **words}
        with (self._folder / "reports").open("a") as file:
            file.write(f"{json.dumps(line)}\n")


def train(folder: Path) -> None:
    """Count steps until the file ``finish`` exists; this is what the run does."""
    Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Steps(folder), DataLoader(TensorDataset(torch.zeros(EPOCH))))


if __name__ == "__main__":
    main()
