"""Lets the other ranks connect as soon as rank 0 has imported torch.

torch's store is a server in the process of rank 0, which opens it when its process group is
initialized. A rank that comes earlier is refused, waits for a quarter to three quarters of a second
before it tries again, and lets all others wait.
"""

import contextlib
import os
from datetime import timedelta

from torch import distributed

LIMIT = timedelta(seconds=10)
_stores: list[object] = []


def open_store() -> None:
    """Listen for the other ranks, if this process is rank 0 of several, and has not yet met them.

    torch's own store of this process becomes another name of the same server. If the port is
    taken, it is torch that will say so.
    """
    port = os.environ.get("MASTER_PORT")
    is_first = os.environ.get("RANK") == "0" and os.environ.get("WORLD_SIZE", "1") != "1"
    if not (is_first and port and distributed.is_available()) or distributed.is_initialized():
        return
    with contextlib.suppress(RuntimeError):
        # torch has no __all__ here; its documentation lists the class.
        kind = distributed.TCPStore  # type: ignore[attr-defined]
        place = ("localhost", int(port))
        _stores[:] = [
            kind(*place, is_master=True, timeout=LIMIT, wait_for_workers=False, multi_tenant=True)
        ]


def leave_store() -> None:
    """Leave the server to the process group, with which it ends; without one, it stays.

    Another process group of this process must not find what this one has left there. And a rank
    that has connected must not lose the server because rank 0 trains alone first.
    """
    if distributed.is_available() and distributed.is_initialized():
        _stores.clear()
