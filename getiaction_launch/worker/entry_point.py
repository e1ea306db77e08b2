"""Where Lightning asks for callbacks, in every process that makes a Trainer.

Lightning finds it by the entry point group ``lightning.pytorch.callbacks_factory``, so the user's
spec and script need no changes. Programs that were not launched import nothing else of the
launcher.
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback

WORKER_VARIABLE = "GETIACTION_LAUNCH_WORKER"
"""A worker sets it to its own process id. Its child processes inherit it, but not the id."""


def callbacks() -> "list[Callback]":
    """The callbacks that a launched worker adds to a Trainer; empty in any other process."""
    if os.environ.get(WORKER_VARIABLE) != str(os.getpid()):
        return []
    from getiaction_launch.worker.interruption import callbacks_of_worker

    return callbacks_of_worker()
