"""CPU time of the launcher's quick commands, and of a TAB, against ``python -c pass``.

python benchmarks/command_line.py
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "lightning", "ray", "fsspec")


def cpu_seconds(command: list[str], directory: str) -> float:
    """User and system time of one whole run, children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=directory, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def heavy_imports(command: list[str], directory: str) -> list[str]:
    """Which heavy packages ``python -X importtime`` sees the command import."""
    traced = [command[0], "-X", "importtime", *command[1:]]
    result = subprocess.run(traced, cwd=directory, capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    return [name for name in HEAVY if name in names]


def main() -> None:
    """Measure in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    arguments = parser.parse_args()
    launcher = [sys.executable, "-m", "getiaction_launch.cli"]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "train.py").write_text("pass\n")
        subprocess.run(
            [*launcher, "--wait", "train.py"], cwd=directory, capture_output=True, check=True
        )
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "getiaction-launch --help": [*launcher, "--help"],
            "getiaction-launch status": [*launcher, "status", "@last"],
        }
        script = subprocess.run(
            [*launcher, "completion", "bash"], capture_output=True, text=True, check=True
        )
        Path(directory, "completion").write_text(script.stdout)
        tab = "source completion; COMP_WORDS=(getiaction-launch status tr); COMP_CWORD=2"
        commands["TAB behind `status tr`"] = ["bash", "-c", f"{tab}; _getiaction_launch"]
        typed = f"--config {ROOT}/examples/act_tiny.yaml --model."
        tab = f"source completion; COMP_WORDS=(getiaction-launch {typed}); COMP_CWORD=3"
        # compopt only works while a person completes a word.
        tab = f"{tab}; compopt() {{ :; }}; _getiaction_launch"
        commands["TAB behind `--model.`"] = ["bash", "-c", tab]
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.runs):
            for name, command in commands.items():
                seconds[name].append(cpu_seconds(command, directory))
        rival = statistics.median(seconds["python -c pass"])
        for name, command in commands.items():
            median = statistics.median(seconds[name])
            is_python = command[0] == sys.executable
            heavy = is_python and heavy_imports(command, directory)
            heavy = heavy or "none of " + ", ".join(HEAVY)
            print(f"{name}: {median:.3f} s of CPU, {median / rival:.1f} x; imports {heavy}")


if __name__ == "__main__":
    main()
