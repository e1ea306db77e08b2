"""Types what the pages show, and compares the answers."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
ONE_STEP = (
    " --trainer.max_steps 1 --trainer.enable_checkpointing false --data.train_batch_size 2"
    " --trainer.accelerator cpu"
)
"""Flags that end a page's `getiaction fit` after one small step."""
VARYING = {
    r"\S+@\S+": "JOB",
    r"/\S*/experiments": "DIR/experiments",
    r"\([\w.-]+\)(?=: | failed first: )": "(HOST)",
    r'File "/\S*/': 'File "DIR/',
    r"sweep-[0-9a-f]{8}": "SWEEP",
    r"(?<=  )\d+ (s|min|h)( \d+ (s|min))?(?=  |$)": "T",
    r"(?<![=\w.])\d+(\.\d+)?(e-?\d+)?(?=  | min|$)": "N",  # losses, steps and ages
    r"^elapsed  .*$": "elapsed  T",
    r"^hosts  .*$": "hosts  HOSTS",
    r"^memory  .*$": "memory  MEMORY",
    r'"elapsed_seconds": [\d.]+': '"elapsed_seconds": T',
    r'"root": "[^"]*"': '"root": DIR',
    r'"versions": \{[^}]*\}': '"versions": VERSIONS',
    r"  +": "  ",  # columns are as wide as what stands in them
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each code block of a page.

    Args:
        page: The path of the page in the repository.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def examples(code: str) -> list[tuple[str, str]]:
    """Return each command of a console block with the answer that is shown."""
    commands = re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (c.partition("\n") for c in commands)]


def settled(text: str) -> list[str]:
    """The lines of an answer without what differs between two readers."""
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.rstrip().splitlines()


def shell(
    command: str, directory: Path, machine: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run a command line with this environment's programs.

    Args:
        command: The command line to run.
        directory: The directory to run it in.
        machine: The command that runs it on another machine; empty for this one.
    """
    programs = str(Path(sys.executable).parent)
    return subprocess.run(
        [*machine, "bash", "-c", command],
        cwd=directory,
        env={
            **os.environ,
            "PATH": programs + os.pathsep + os.environ["PATH"],
            "GETIACTION_CACHE": str(directory / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
