"""Ties a process to its parent, so that no worker outlives what started it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to SIGKILL this process when its parent dies, however that dies.

    Call it before slow imports: a parent that dies earlier is not noticed by the kernel, only
    by the comparison here. Linux only; elsewhere it does nothing.

    Args:
        parent_pid: The process that started this one, as that process told it.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)
