"""A look at something in a copy of this process, which changes nothing in this one."""

import contextlib
import json
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict

from getiaction_launch.checking.finding import Finding
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.system.child import die_with

_CHUNK_BYTES = 1 << 16


def look_aside(look: Callable[[], Finding | None], limit_seconds: float) -> Finding | None:
    """Return what a copy of this process finds; None if it finds nothing, or fails, within a limit.

    Random numbers, counters of a dataset and the like stay here as they are. The copy is like a
    process that a DataLoader starts: it has one thread, and none of the others of this process.

    Args:
        look: Function to call in the copy.
        limit_seconds: How long the copy may take.
    """
    receiver, sender = os.pipe()
    parent_pid, offsets = os.getpid(), _offsets()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            # It ends itself, since a trial may send no signals.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, limit_seconds)
            die_with(parent_pid)
            if found := look():
                os.write(sender, dumps(asdict(found)).encode())
        finally:
            os._exit(0)
    os.close(sender)
    content, end = b"", time.monotonic() + limit_seconds
    while select.select([receiver], [], [], max(0, end - time.monotonic()))[0]:
        chunk = os.read(receiver, _CHUNK_BYTES)
        if not chunk:
            break
        content += chunk
    os.close(receiver)
    os.waitpid(pid, 0)
    for descriptor, offset in offsets.items():
        os.lseek(descriptor, offset, os.SEEK_SET)
    return Finding(**json.loads(content)) if content else None


def _offsets() -> dict[int, int]:
    """Return where this process is in each of its open files: a copy moves on in the same ones."""
    offsets, names = {}, list[str]()
    with contextlib.suppress(OSError):
        names = os.listdir("/dev/fd")  # noqa: PTH208 - numbers, and no paths
    for number in map(int, names):
        with contextlib.suppress(OSError):  # a pipe, or that of the list
            offsets[number] = os.lseek(number, 0, os.SEEK_CUR)
    return offsets
