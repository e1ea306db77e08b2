"""What it costs to submit a sweep, against the same points submitted one by one.

python benchmarks/sweeps.py

The spec is examples/act_tiny.yaml with another seed for each point. On this machine nothing is
simulated; the sweep is cancelled when it was measured. On SLURM, its commands are small shell
scripts that accept everything, since no cluster of 500 jobs fits a laptop: what is measured is the
launcher's part.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

SPEC = Path(__file__).parents[1] / "examples/act_tiny.yaml"
LAUNCHER = [sys.executable, "-m", "getiaction_launch.cli"]
# The id of a job is the number of its line in the list of calls.
LISTED = "grep -n '^sbatch /' calls | cut -d: -f1"
ANSWERS = {
    "sbatch": 'echo "Submitted batch job $(wc -l < calls)"',
    "scontrol": "echo 'MaxArraySize = {largest}'\necho 'PartitionName=main Default=YES'",
    "squeue": f"for id in $({LISTED}); do for i in $(seq 0 {{largest}}); do "
    'echo "${{id}}_$i|PENDING|N/A|N/A|Priority"; done; echo "$id|PENDING|N/A|N/A|Priority"; done',
    "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
    "srun": "true",
}


def install_slurm(directory: Path, largest: int) -> dict[str, str]:
    """Write commands that stand for SLURM's; return the environment in which they are found."""
    (directory / "bin").mkdir()
    for name, answer in ANSWERS.items():
        path = directory / "bin" / name
        body = answer.format(largest=largest)
        path.write_text(f'#!/bin/sh\ncd {directory}\necho "{name} $*" >> calls\n{body}\n')
        path.chmod(0o755)
    cache = {"XDG_CACHE_HOME": str(directory / "cache")}
    return {**os.environ, **cache, "PATH": f"{directory}/bin:{os.environ['PATH']}"}


def run(words: list[str], directory: Path, environment: dict[str, str]) -> float:
    """Run a command; return the CPU time of it and of all that it has waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*LAUNCHER, *words],
        cwd=directory,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def job_processes(directory: Path) -> list[psutil.Process]:
    """Return the job processes and the queues of the runs in a directory."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or [])
        if "-m getiaction_launch.backends." in words and str(directory) in words:
            found.append(process)
    return found


def measure(cluster: str, arguments: argparse.Namespace, directory: Path) -> None:
    """Submit a sweep, then single points, and print what both took."""
    points, largest = arguments.points, arguments.max_array_size
    environment = install_slurm(directory, largest)
    words = ["--cluster", cluster, "--config", str(SPEC), "--no-check", "--parsable"]
    seeds = ",".join(map(str, range(points)))
    seconds = run(
        [*words, "--sweep", f"seed={seeds}", "--max-parallel", "1"], directory, environment
    )
    processes = job_processes(directory)
    own_seconds = sum(sum(process.cpu_times()[:2]) for process in processes)
    memory_mb = sum(process.memory_info().rss for process in processes) / 1e6
    arrays = 0
    if cluster == "slurm":
        calls = (directory / "calls").read_text().splitlines()
        arrays = sum(call.startswith("sbatch /") for call in calls)
    else:
        (plan, *_) = (directory / "experiments").glob("*/version_0/launch/plan.json")
        run(["cancel", json.loads(plan.read_text())["sweep"]["group"]], directory, environment)
    singles = []
    for seed in range(arguments.singles):
        singles.append(run([*words, f"--seed_everything={seed}"], directory, environment))
        if cluster == "local":
            run(["cancel", "@last"], directory, environment)
    rival = points * sum(singles) / len(singles)
    print(
        f"{cluster}: {points} points in one command: {seconds:.1f} s of CPU, "
        f"{len(processes)} job processes (one trains) with {memory_mb:.0f} MB and "
        f"{own_seconds:.1f} s of CPU, {arrays} arrays; {points} commands of one point: "
        f"{rival:.0f} s of CPU (mean of {len(singles)}), ratio {seconds / rival:.4f}",
        flush=True,
    )


def main() -> None:
    """Measure on this machine and on SLURM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--singles", type=int, default=5)
    parser.add_argument("--max-array-size", type=int, default=200)
    parser.add_argument("--cluster", choices=["local", "slurm"], action="append")
    arguments = parser.parse_args()
    for cluster in arguments.cluster or ("local", "slurm"):
        with tempfile.TemporaryDirectory() as place:
            measure(cluster, arguments, Path(place).resolve())


if __name__ == "__main__":
    main()
