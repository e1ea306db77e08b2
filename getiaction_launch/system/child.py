"""Ties a process to its parent, so that no worker outlives what started it."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)
_VARIABLE = "GETIACTION_LAUNCH_PARENT"


def start_child(
    words: Sequence[str],
    log_path: Path,
    environment: Mapping[str, str],
    *,
    working_directory: str | None = None,
    own_session: bool = False,
    blocked: Collection[signal.Signals] = (),
) -> "subprocess.Popen[bytes]":
    """Start a process that calls :func:`die_with_parent`.

    Beware: not in a thread that ends before the process, with which the kernel would end it too.

    Args:
        words: The command line.
        log_path: What it prints is added there.
        environment: All of its variables.
        working_directory: This process's if not given.
        own_session: Whether it leads a session, out of reach of a terminal's signals.
        blocked: Signals that never reach it, nor anything that it starts.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        with log_path.open("ab") as log:
            return subprocess.Popen(
                words,
                env={**environment, _VARIABLE: str(os.getpid())},
                cwd=working_directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=own_session,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def die_with_parent() -> None:
    """Ask the kernel to SIGKILL this process when its parent dies, however that dies.

    Call it before slow imports: a parent that dies earlier is not noticed by the kernel, only
    by the comparison here. Linux only; elsewhere, and in a process that was started otherwise than
    by :func:`start_child`, it does nothing.
    """
    parent_pid = os.environ.pop(_VARIABLE, None)
    if sys.platform != "linux" or parent_pid is None:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent_pid):
        os._exit(1)
