"""The launcher against plain torchrun on the same spec, 2 nodes x 1 worker on this machine.

Prints two ratios, medians over pairs of runs in turn: the time from typing the command to the
end of the first optimizer step, and the time of a later step.

    python benchmarks/against_torchrun.py
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

HERE = Path(__file__).parent
WARM_UP_STEPS = 10
LIMIT_SECONDS = 300


def write_spec(directory: Path, steps: int) -> Path:
    """The tiny ACT, with a stopwatch and without validation and checkpoints."""
    spec = yaml.safe_load((HERE.parent / "examples/act_tiny.yaml").read_text())
    stopwatch = {"class_path": "stopwatch.Stopwatch", "init_args": {"path": "times.json"}}
    spec["trainer"] |= {
        "max_epochs": -1,
        "max_steps": steps,
        "limit_val_batches": 0,
        "enable_checkpointing": False,
        "num_nodes": 2,
        "devices": 1,
        "callbacks": [stopwatch],
    }
    path = directory / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


def launched(spec: Path) -> list[list[str]]:
    """The launcher's one command."""
    return [[sys.executable, "-m", "getiaction_launch.cli", "--config", str(spec), "--wait"]]


def by_torchrun(spec: Path) -> list[list[str]]:
    """What one types today: a torchrun on each node."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    head = ["--master-addr=127.0.0.1", f"--master-port={port}"]
    fit = ["-m", "getiaction.cli", "fit", "--config", str(spec)]
    return [[*torchrun, *head, f"--node-rank={rank}", *fit] for rank in (0, 1)]


def measure(commands: list[list[str]], directory: Path) -> tuple[float, float]:
    """Run ``commands`` side by side.

    Returns:
        Seconds to the end of the first step, and the median seconds of the later steps.
    """
    times = directory / "times.json"
    times.unlink(missing_ok=True)
    # As many threads as the launcher gives each of two workers on one machine.
    threads = str(max(1, len(os.sched_getaffinity(0)) // 2))
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": threads}
    started_at = time.time()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen(c, cwd=directory, env=env, **quiet) for c in commands]
    codes = [process.wait(LIMIT_SECONDS) for process in processes]
    if any(codes):
        sys.exit(f"a run failed, exit codes {codes}: {commands[0]}")
    ends = json.loads(times.read_text())
    steps = [after - before for before, after in itertools.pairwise(ends)]
    return ends[0] - started_at, statistics.median(steps[WARM_UP_STEPS:])


def main() -> None:
    """Measure in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs")
    parser.add_argument("--steps", type=int, default=100, help="optimizer steps of each run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        spec = write_spec(directory, arguments.steps)
        measure(launched(spec), directory)  # makes the dataset and warms the page cache
        pairs = []
        for number in range(arguments.runs):
            ours = measure(launched(spec), directory)
            theirs = measure(by_torchrun(spec), directory)
            pairs.append((ours, theirs))
            print(f"pair {number}: first step {ours[0]:.2f} s against {theirs[0]:.2f} s")
    for index, what in enumerate(("command to first step", "one later step")):
        ours_s = statistics.median(ours[index] for ours, _ in pairs)
        theirs_s = statistics.median(theirs[index] for _, theirs in pairs)
        ratio = statistics.median(ours[index] / theirs[index] for ours, theirs in pairs)
        print(
            f"{what}: launcher {ours_s:.3f} s, torchrun {theirs_s:.3f} s, "
            f"median ratio of {len(pairs)} pairs {ratio:.3f}"
        )


if __name__ == "__main__":
    main()
