"""A process that a record names: find it again, and signal it only if it is certainly that one.

A record is data that anybody may have written, and the kernel gives ids of processes that have
ended to others. So a process counts only if its start time, its command line and, before a signal,
its user fit as well.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

MAX_PID = 1 << 22
"""Above every process id that Linux gives (PID_MAX_LIMIT)."""
START_TOLERANCE_SECONDS = 1.5
"""Earlier versions computed start times from the time of the boot, which may jump by a second."""


class NotOursError(Exception):
    """A process belongs to another user."""


def start_seconds(pid: int) -> float | None:
    """Return when a process started, in seconds since the machine booted; None if it has ended.

    Setting the clock does not change this.

    Args:
        pid: Id of the process in this pid namespace.

    Raises:
        NotOursError: If the process exists, but the kernel hides it (``hidepid`` of proc(5)).
    """
    if not _is_pid(pid):
        return None
    if sys.platform != "linux":
        return _start_seconds_elsewhere(pid)
    try:
        # The name of the program, in parentheses, may contain spaces and parentheses itself.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        if _is_hidden(pid):
            raise NotOursError from None
        return None
    state, *words = text.rpartition(")")[2].split()
    return None if state in "ZXx" else round(int(words[18]) / os.sysconf("SC_CLK_TCK"), 2)


def _start_seconds_elsewhere(pid: int) -> float | None:
    import psutil  # slow to import, also below

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return round(process.create_time() - psutil.boot_time(), 2)
    except psutil.NoSuchProcess:
        return None


def _is_hidden(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def _is_pid(pid: object) -> bool:
    """Whether a value of a record can be the id of a process other than init.

    Beware: to kill(2), -1 means every process, 0 the own process group, and other negative numbers
    process groups.
    """
    return isinstance(pid, int) and not isinstance(pid, bool) and 1 < pid < MAX_PID


def is_process(pid: int, started_at: float | None, fits: Callable[[Sequence[str]], bool]) -> bool:
    """Whether a process lives, and is the one that a record names.

    Args:
        pid: Id of the process, as recorded.
        started_at: When it started, in seconds since the boot, as recorded.
        fits: Returns whether a command line is that of the recorded process.

    Raises:
        NotOursError: If the process exists, but the kernel hides it.
    """
    return command_line(pid, started_at, fits) is not None


def command_line(
    pid: int, started_at: float | None, fits: Callable[[Sequence[str]], bool]
) -> list[str] | None:
    """Return the command line of the process that a record names; None if it has ended.

    Args:
        pid: Id of the process, as recorded.
        started_at: When it started, in seconds since the boot, as recorded.
        fits: Returns whether a command line is that of the recorded process.

    Raises:
        NotOursError: If the process exists, but the kernel hides it.
    """
    import psutil

    now = start_seconds(pid)
    if now is None or started_at is None or not abs(now - started_at) < START_TOLERANCE_SECONDS:
        return None
    try:
        words = psutil.Process(pid).cmdline()
    except psutil.AccessDenied:
        raise NotOursError from None
    except psutil.Error:
        return None
    return words if fits(words) else None


def send_signal(
    pid: int,
    signum: int,
    started_at: float | None,
    fits: Callable[[Sequence[str]], bool],
) -> None:
    """Signal the process that a record names; do nothing if it has ended.

    Args:
        pid: Id of the process, as recorded.
        signum: The signal to send; with 0, only look for the process.
        started_at: When it started, in seconds since the boot, as recorded.
        fits: Returns whether a command line is that of the recorded process.

    Raises:
        NotOursError: If the process belongs to another user.
    """
    import psutil

    if not _is_pid(pid):
        return
    with contextlib.ExitStack() as stack:
        try:
            # From here on the id cannot come to mean another process unnoticed.
            handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        except ProcessLookupError:
            return
        except OSError:  # an old kernel, or a container that forbids the call
            handle = None
        if handle is not None:
            stack.callback(os.close, handle)
        if not is_process(pid, started_at, fits):
            return
        try:
            if psutil.Process(pid).uids().real != os.getuid():
                raise NotOursError
            if handle is None:
                os.kill(pid, signum)
            else:
                signal.pidfd_send_signal(handle, signum)
        except (ProcessLookupError, psutil.NoSuchProcess):
            return
        except PermissionError as error:
            raise NotOursError from error


def descendants(pid: int) -> "list[psutil.Process]":
    """Return the processes that a process has started, and those that these have started."""
    import psutil

    try:
        return psutil.Process(pid).children(recursive=True) if _is_pid(pid) else []
    except psutil.Error:
        return []
