"""The launcher on Ray against Ray Train, on a real Ray cluster of three nodes on this machine.

Needs root and iproute2, as the tests do. Both train the same spec on 2 nodes x 1 worker, and both
are jobs of Ray's Jobs API, submitted from a machine without Ray; ``with_ray_train.py`` is the
rival. Prints, over pairs of runs in turn, medians of:

- the time from typing the command to the end of the first optimizer step;
- the time from SIGKILL of rank 0's process to the end of the next optimizer step, each from its
  newest checkpoint. Ray Train saves after each epoch, the launcher about as often.

    pip install -c constraints.txt '.[benchmark]'
    python benchmarks/against_ray_train.py
"""

import argparse
import importlib.util
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml
from against_torchrun import HERE, LIMIT_SECONDS, write_spec
from pairs import compare, compare_first_steps

sys.path.insert(0, str(HERE.parent / "tests"))
from clusters import ordinary_user
from clusters.ray_cluster import RAY, RayCluster, missing

LAUNCHER = [sys.executable, "-m", "getiaction_launch.cli"]
EPOCH_STEPS = 20
EPOCH_SECONDS = 1.5  # about, of which Ray Train spends some on saving
KILL_AT_STEP = 50  # in the third epoch: Ray Train knows the first one's checkpoint by then


@dataclass(frozen=True)
class Step:
    """One optimizer step of rank 0, as recorded by ``stopwatch.StepLog``."""

    step: int
    at: float
    host: str
    pid: int

    @property
    def process(self) -> tuple[str, int]:
        """The process that took the step; its pid is that of the host's own namespace."""
        return self.host, self.pid


class Bench:
    """A cluster, and a directory to work in."""

    def __init__(self, cluster: RayCluster, directory: Path, environment: dict[str, str]) -> None:
        self.cluster, self.directory = cluster, directory
        self.log = directory / "steps.jsonl"
        self.numbers = itertools.count()
        self.env = {**os.environ, **environment, "RAY_ADDRESS": cluster.address}
        config = yaml.safe_load((HERE.parent / "cluster_configs/ray.yaml").read_text())
        config["saving"]["period_minutes"] = EPOCH_SECONDS / 60
        (directory / "cluster.yaml").write_text(yaml.safe_dump(config))

    def write_spec(self, steps: int) -> None:
        """Write a spec of the tiny ACT, with absolute paths, which work on all nodes."""
        path = write_spec(self.directory, steps)
        spec = yaml.safe_load(path.read_text())
        log = {"class_path": "stopwatch.StepLog", "init_args": {"path": str(self.log)}}
        spec["trainer"] |= {
            "default_root_dir": str(self.directory / "experiments"),
            "limit_train_batches": EPOCH_STEPS,
            "callbacks": [log],
        }
        path.write_text(yaml.safe_dump(spec))

    def type(self, *words: str) -> str:
        """Run a command where no Ray runs; return what it prints."""
        result = subprocess.run(
            [*self.cluster.login_of_user(self.directory), *words],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        if result.returncode:
            sys.exit(f"{shlex.join(words)} failed: {result.stdout}{result.stderr}")
        return result.stdout.strip()

    def launch(self, *flags: str) -> str:
        """Submit by the launcher; return the run."""
        options = ["--cluster", "cluster.yaml", "--max-crashes", "1", "--parsable", *flags]
        return self.type(*LAUNCHER, *options, "--config", "spec.yaml", "--gpus-per-node", "0")

    def submit_ray_train(self) -> str:
        """Submit the rival; return the job."""
        name = f"ray_train_{next(self.numbers)}"
        rival = [sys.executable, HERE / "with_ray_train.py"]
        paths = [self.directory / "spec.yaml", self.directory / "storage" / name]
        options = ["--no-wait", f"--submission-id={name}"]
        self.type(*RAY, "job", "submit", *options, "--", *map(str, [*rival, *paths]))
        return name

    def steps(self) -> list[Step]:
        """Return the steps that rank 0 has taken so far."""
        text = self.log.read_text() if self.log.exists() else ""
        lines = text.splitlines(keepends=True)
        return [Step(**json.loads(line)) for line in lines if line.endswith("\n")]

    def first_step_seconds(self, submit: Callable[[], str]) -> float:
        """From the command to the end of the first step."""
        self.log.unlink(missing_ok=True)
        started_at = time.time()
        submit()
        self._wait(self.steps)
        self.cluster.wait_idle(LIMIT_SECONDS)
        return self.steps()[0].at - started_at

    def recovery(self, submit: Callable[[], str], cancel: list[str]) -> tuple[float, str]:
        """Kill rank 0's process.

        Returns:
            Seconds to the end of the next step, and which steps were the last and the next.
        """
        self.log.unlink(missing_ok=True)
        name = submit()
        self._wait(lambda: len(self.steps()) >= KILL_AT_STEP)
        killed = self.steps()[-1]
        killed_at = time.time()
        self.cluster.on(killed.host, "kill", "-KILL", str(killed.pid))
        self._wait(lambda: self.steps()[-1].process != killed.process)
        steps = self.steps()
        last = [step for step in steps if step.process == killed.process][-1]
        after = steps[steps.index(last) + 1]
        self.type(*cancel, name)
        self.cluster.wait_idle(LIMIT_SECONDS)
        return after.at - killed_at, f"step {after.step} after {last.step}"

    def _wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                jobs = "\n".join(
                    f"{job['entrypoint']}: {job['message']}" for job in self.cluster.jobs()
                )
                sys.exit(f"still waiting after {LIMIT_SECONDS} s\n{jobs}")
            time.sleep(0.02)


def main() -> None:
    """Measure in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs")
    arguments = parser.parse_args()
    if not all(map(importlib.util.find_spec, ("pandas", "tensorboardX"))):
        sys.exit("packages of Ray Train are missing: pip install -c constraints.txt '.[benchmark]'")
    if reason := missing():
        sys.exit(reason)
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": paths}  # the spec's callback on the path of both
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ordinary_user.open_to_all(directory)
        with RayCluster(directory / "cluster", num_nodes=2, settings=environment) as cluster:
            work = directory / "work"
            work.mkdir()
            ordinary_user.own(work)  # Ray, whose workers write there, does not run as root
            bench = Bench(cluster, work, environment)
            rivals = (bench.launch, bench.submit_ray_train)
            bench.write_spec(steps=5)
            for submit in rivals:  # makes the dataset, warms the page cache
                bench.first_step_seconds(submit)
            compare_first_steps("Ray Train", bench.first_step_seconds, *rivals, arguments.runs)
            bench.write_spec(steps=100_000)
            cancels = ([*LAUNCHER, "cancel"], [*RAY, "job", "stop"])
            recoveries = []
            for number in range(arguments.runs):
                (ours, our_steps), (theirs, their_steps) = map(bench.recovery, rivals, cancels)
                recoveries.append((ours, theirs))
                print(
                    f"pair {number}: next step {ours:.2f} s ({our_steps}) "
                    f"against {theirs:.2f} s ({their_steps})",
                    flush=True,
                )
            compare("Ray Train", "killed worker to next step", recoveries)


if __name__ == "__main__":
    main()
