"""The launcher on SLURM against a batch script written by hand, on a real SLURM on this machine.

Needs root and SLURM's packages, as the tests do. Prints, over pairs of runs in turn, medians of:

- the time from typing the command to the end of the first optimizer step, on 2 nodes x 1 worker;
  the rival is `sbatch` of a script that runs `srun torchrun` on the same spec; once with the
  check of the spec, which trains two batches before anything is submitted, and once without;
- the time from `getiaction-launch cancel` until no process of the run is left; the rival is
  `scancel` of that script.

With --cancel, only the latter. And, with --watch, how many commands per minute SLURM gets while 1,
10 and 100 runs are watched.

    python benchmarks/against_sbatch.py
    python benchmarks/against_sbatch.py --cancel
    python benchmarks/against_sbatch.py --watch
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from against_torchrun import HERE, LIMIT_SECONDS, write_spec
from pairs import compare, compare_first_steps

sys.path.insert(0, str(HERE.parent / "tests"))
from clusters import ordinary_user
from clusters.slurm import SlurmCluster

LAUNCHER = [sys.executable, "-m", "getiaction_launch.cli"]
PORT = 29511
BY_HAND = f"""#!/bin/bash
#SBATCH --job-name=by_hand
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=1
#SBATCH --output=by_hand.log
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun bash -c 'exec {sys.executable} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 \\
  --node-rank="$SLURM_NODEID" --master-addr='"$head"' --master-port={PORT} \\
  -m getiaction.cli fit --config spec.yaml'
"""
WATCHED = (1, 10, 100)
WATCH_SECONDS = 120
COUNTED = ("squeue", "sacct", "scontrol", "sinfo")


class Bench:
    """A cluster, and a directory to work in."""

    def __init__(self, cluster: SlurmCluster, directory: Path) -> None:
        self.cluster, self.directory = cluster, directory
        self.times = directory / "times.json"
        # As many threads for both; the spec's stopwatch on the path of both.
        paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
        self.env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        (directory / "by_hand.sh").write_text(BY_HAND)

    def type(self, *words: str) -> str:
        """Run a command on the login node; return what it prints."""
        result = subprocess.run(
            [*self.cluster.login, *words],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if result.returncode:
            sys.exit(f"{shlex.join(words)} failed: {result.stderr}")
        return result.stdout.strip()

    def launch(self, *flags: str) -> str:
        """Submit by the launcher; return the run."""
        spec = ["--config", "spec.yaml", "--gpus-per-node", "0"]
        return self.type(*LAUNCHER, "--cluster", "slurm", "--parsable", *flags, *spec)

    def submit_by_hand(self) -> str:
        """Submit the script; return the job."""
        return self.type("sbatch", "--parsable", "by_hand.sh")

    def first_step_seconds(self, submit: Callable[[], str]) -> float:
        """From the command to the end of the first step."""
        self.times.unlink(missing_ok=True)
        started_at = time.time()
        submit()
        wait(self.times.exists)
        time.sleep(0.1)  # its writer closes it
        self.cluster.wait_idle()
        first: float = json.loads(self.times.read_text())[0]
        return first - started_at

    def cancel_seconds(self, submit: Callable[[], str], cancel: list[str]) -> float:
        """From the command that ends a run in the middle to the end of its last process."""
        self.times.unlink(missing_ok=True)
        name = submit()
        wait(self.times.exists)
        started_at = time.monotonic()
        ending = subprocess.Popen(
            [*self.cluster.login, *cancel, name], cwd=self.directory, stdout=subprocess.DEVNULL
        )
        wait(lambda: not self._workers())
        seconds = time.monotonic() - started_at
        ending.wait(LIMIT_SECONDS)
        self.cluster.wait_idle()
        return seconds

    def _workers(self) -> list[int]:
        return [process.pid for process in self.cluster.processes(str(self.directory))]

    def count_commands(self, num_runs: int) -> float:
        """Commands per minute that SLURM gets while ``num_runs`` waiting runs are watched."""
        shims, log = self.directory / "shims", self.directory / "commands.log"
        shims.mkdir(exist_ok=True)
        for name in COUNTED:
            path = shims / name
            path.write_text(f'#!/bin/sh\necho {name} >>{log}\nexec /usr/bin/{name} "$@"\n')
            path.chmod(0o755)
        (self.directory / "wait.py").write_text("import time\ntime.sleep(600)\n")
        held = [*LAUNCHER, "--cluster", "slurm", "--gpus-per-node", "0", "--sbatch", "hold"]
        grid = ["--sweep", f"x={','.join(map(str, range(num_runs)))}"]
        runs = self.type(*held, "--parsable", *grid, "wait.py").splitlines()
        path = f"{shims}{os.pathsep}{os.environ['PATH']}"
        log.write_text("")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        watchers = [
            subprocess.Popen(
                [*self.cluster.login, *LAUNCHER, "logs", "-f", run],
                cwd=self.directory,
                env={**self.env, "PATH": path},
                **quiet,
            )
            for run in runs
        ]
        time.sleep(WATCH_SECONDS)
        count = len(log.read_text().splitlines())
        for watcher in watchers:
            watcher.kill()
            watcher.wait()
        self.type("scancel", "--me")
        return count * 60 / WATCH_SECONDS


def wait(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"still waiting after {LIMIT_SECONDS} s")
        time.sleep(0.02)


def main() -> None:
    """Measure in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs")
    parser.add_argument("--cancel", action="store_true", help="time only the cancel")
    parser.add_argument("--watch", action="store_true", help="count commands, time nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ordinary_user.open_to_all(directory)
        with SlurmCluster(directory / "cluster") as cluster:
            work = directory / "work"
            work.mkdir()
            bench = Bench(cluster, work)
            if arguments.watch:
                for count in WATCHED:
                    rate = bench.count_commands(count)
                    print(f"{count} runs watched: {rate:.1f} commands per minute", flush=True)
                return
            write_spec(work, steps=5)
            bench.first_step_seconds(bench.launch)  # makes the dataset, warms the page cache
            if not arguments.cancel:
                rivals = (bench.launch, bench.submit_by_hand)
                compare_first_steps("by hand", bench.first_step_seconds, *rivals, arguments.runs)
            write_spec(work, steps=100_000)
            cancels = []
            for number in range(arguments.runs):
                ours = bench.cancel_seconds(bench.launch, [*LAUNCHER, "cancel"])
                theirs = bench.cancel_seconds(bench.submit_by_hand, ["scancel"])
                cancels.append((ours, theirs))
                print(f"pair {number}: cancel {ours:.2f} s against {theirs:.2f} s", flush=True)
            compare("by hand", "cancel to the last process gone", cancels)


if __name__ == "__main__":
    main()
