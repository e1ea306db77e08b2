"""The user's data loaders: protected from a scheduler's SIGTERM, and asked if they resume exactly.

Preemption, requeue and ``scancel`` send SIGTERM to every process of a job step. PyTorch's loader
processes die of a SIGTERM that their parent did not send, and the parent then raises in the middle
of a training step. So loader processes ignore SIGTERM, and the parent ends one that hangs with
SIGKILL. They cannot check who sent it: in spawned processes, idle threads of libraries receive the
signal first.

Beware: spawned loader processes import this module, so torch and Lightning are imported inside
functions only. Lightning would cost each of those processes seconds.
"""

import copy
import functools
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing import context, process
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


def prepare_loader(loader: object, trainer: "Trainer") -> None:
    """Protect the loader's processes from SIGTERM, and set its epoch before it is read."""
    from lightning.fabric.utilities.seed import pl_worker_init_function
    from torch.utils.data import DataLoader

    if not isinstance(loader, DataLoader):
        return
    init = loader.worker_init_fn
    if loader.num_workers and not isinstance(init, LoaderShield):
        if init is None and int(os.environ.get("PL_SEED_WORKERS", "0")):
            # Lightning adds this later, and only if the loader has no worker_init_fn.
            init = functools.partial(pl_worker_init_function, rank=trainer.global_rank)
        loader.worker_init_fn = LoaderShield(init)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        loader.multiprocessing_context = shielded_context(context)
    # Lightning sets the epoch after making the first iterator, whose processes may read ahead.
    set_epoch = getattr(loader.sampler, "set_epoch", None)
    if set_epoch and trainer.current_epoch:
        set_epoch(trainer.current_epoch)


class LoaderShield:
    """A DataLoader's ``worker_init_fn`` that makes the loader process ignore SIGTERM.

    Args:
        init: The user's own ``worker_init_fn``, called after that.
    """

    def __init__(self, init: Callable[[int], object] | None) -> None:
        self._init = init

    def __call__(self, worker_id: int) -> None:
        """Ignore SIGTERM in this process, then run the user's function."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if self._init:
            self._init(worker_id)


def shielded_context(original: context.BaseContext) -> context.BaseContext:
    """Return a ``multiprocessing_context`` whose processes are ended with SIGKILL.

    PyTorch calls ``terminate`` on a loader process that hangs, and then waits for it without a
    time limit.

    Args:
        original: The context that the loader would use otherwise.
    """
    shielded = copy.copy(original.get_context())
    shielded.Process = _PROCESSES[shielded.get_start_method()]  # type: ignore[misc]
    return shielded


class _Killed(process.BaseProcess):
    def _Popen(self, started: process.BaseProcess) -> Any:  # noqa: ANN401, N802 - as in its base
        popen = super()._Popen(started)  # type: ignore[misc]
        popen.terminate = popen.kill  # not a method of this class: at exit, Python calls popen's
        return popen


# Defined in a module, since a spawned process unpickles its own class.
class _KilledForkProcess(_Killed, context.ForkProcess): ...


class _KilledSpawnProcess(_Killed, context.SpawnProcess): ...


class _KilledForkServerProcess(_Killed, context.ForkServerProcess): ...


_PROCESSES = {
    "fork": _KilledForkProcess,
    "spawn": _KilledSpawnProcess,
    "forkserver": _KilledForkServerProcess,
}
