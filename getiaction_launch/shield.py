"""Keeps a scheduler's SIGTERM from the processes that read data for a worker.

Preemption, requeue and ``scancel`` send SIGTERM to every process of a job step. PyTorch's loader
processes die of one that is not from their parent, and the parent then raises in the middle of a
training step. Nothing heavy is imported here: loader processes that are spawned import it.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable


class LoaderShield:
    """A DataLoader's ``worker_init_fn`` after which SIGTERM counts from the parent alone.

    Args:
        init: The ``worker_init_fn`` that the loader has already.
    """

    def __init__(self, init: Callable[[int], object] | None) -> None:
        self._init = init

    def __call__(self, worker_id: int) -> None:
        """Shield this process."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        # A spawned process has threads already, of libraries, which do not block it.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # The parent ends a hung loader process so, and then waits for it without a limit.
        if sys.platform == "linux":
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        if self._init:
            self._init(worker_id)


def _end_with(parent_pid: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent_pid:
        pass
    os._exit(0)
