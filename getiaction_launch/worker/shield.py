"""Keeps a scheduler's SIGTERM from the processes that read data for a worker.

Preemption, requeue and ``scancel`` send SIGTERM to every process of a job step. PyTorch's loader
processes die of one that is not from their parent, and the parent then raises in the middle of a
training step. So they ignore it, and the parent ends one that hangs by SIGKILL. They could not
ask who sent it: where processes are spawned, the idle threads of libraries take the signal first.
Nothing heavy is imported here: loader processes that are spawned import it.
"""

import copy
import signal
from collections.abc import Callable
from multiprocessing import context, process
from typing import Any


class LoaderShield:
    """A DataLoader's ``worker_init_fn`` after which the process ignores SIGTERM.

    Args:
        init: The ``worker_init_fn`` that the loader has already.
    """

    def __init__(self, init: Callable[[int], object] | None) -> None:
        self._init = init

    def __call__(self, worker_id: int) -> None:
        """Shield this process."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self._init:
            self._init(worker_id)


def shielded_context(original: context.BaseContext) -> context.BaseContext:
    """Return a DataLoader's ``multiprocessing_context`` for processes that ignore SIGTERM.

    PyTorch calls ``terminate`` on a loader process that hangs, and waits for its end without a
    limit.

    Args:
        original: The context that would be used otherwise.
    """
    shielded = copy.copy(original.get_context())
    shielded.Process = _PROCESSES[shielded.get_start_method()]  # type: ignore[misc]
    return shielded


class _Killed(process.BaseProcess):
    def _Popen(self, started: process.BaseProcess) -> Any:  # noqa: ANN401, N802 - as in its base
        popen = super()._Popen(started)  # type: ignore[misc]
        popen.terminate = popen.kill  # not this object's own: at exit, Python calls that one
        return popen


# Classes of this module, since a process that is spawned unpickles its own.
class _KilledForkProcess(_Killed, context.ForkProcess): ...


class _KilledSpawnProcess(_Killed, context.SpawnProcess): ...


class _KilledForkServerProcess(_Killed, context.ForkServerProcess): ...


_PROCESSES = {
    "fork": _KilledForkProcess,
    "spawn": _KilledSpawnProcess,
    "forkserver": _KilledForkServerProcess,
}
