"""Processes that outlive the shell in which they are started, and whatever started them."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from getiaction_launch.system.mpi import without_mpi
from getiaction_launch.system.orphans import RUN_VARIABLE, TOKEN_VARIABLE


def start_detached(
    words: Sequence[str], log_path: Path, stdin: IO[bytes] | None = None
) -> "subprocess.Popen[bytes]":
    """Start a process in a session of its own.

    Args:
        words: Command line of the process.
        log_path: File to which its output is appended.
        stdin: File that it has as its standard input; an empty one by default.
    """
    # If a worker of another run calls this, the new process must not count as part of that run.
    of_run = (RUN_VARIABLE, TOKEN_VARIABLE)
    inherited = {k: v for k, v in without_mpi(os.environ).items() if k not in of_run}
    with log_path.open("ab") as log:
        return subprocess.Popen(
            words,
            env=inherited,
            stdin=stdin or subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
