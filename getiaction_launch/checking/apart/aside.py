"""A look at something in a copy of this process, which changes nothing in this one."""

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
    parent_pid = os.getpid()
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
    return Finding(**json.loads(content)) if content else None
