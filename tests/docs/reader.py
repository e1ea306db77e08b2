"""Who reads the pages and types what stands there."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ONE_STEP = (
    " --trainer.max_steps 1 --trainer.enable_checkpointing false --data.train_batch_size 2"
    " --trainer.accelerator cpu"
)
"""Flags that end a page's `getiaction fit` after one small step."""


def shell(
    command: str, directory: Path, machine: Sequence[str] = ()
) -> "subprocess.CompletedProcess[str]":
    """Run a command line with this environment's programs.

    Args:
        command: The line.
        directory: Where.
        machine: What leads to another machine than this one.
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
