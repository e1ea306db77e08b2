"""The user's data loaders: kept from a scheduler's SIGTERM, and asked whether they go on exactly.

Preemption, requeue and ``scancel`` send SIGTERM to every process of a job step. PyTorch's loader
processes die of one that is not from their parent, and the parent then raises in the middle of a
training step. So they ignore it, and the parent ends one that hangs by SIGKILL. They could not
ask who sent it: where processes are spawned, the idle threads of libraries take the signal first.

Beware: loader processes that are spawned import this module, so it imports nothing heavy by itself.
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
    """Shield the loader's processes from SIGTERM, and set its epoch before it is read."""
    from lightning.fabric.utilities.seed import pl_worker_init_function
    from torch.utils.data import DataLoader

    if not isinstance(loader, DataLoader):
        return
    init = loader.worker_init_fn
    if loader.num_workers and not isinstance(init, LoaderShield):
        if init is None and int(os.environ.get("PL_SEED_WORKERS", "0")):
            # Lightning adds it after this, and only where there is none.
            init = functools.partial(pl_worker_init_function, rank=trainer.global_rank)
        loader.worker_init_fn = LoaderShield(init)
        context = loader.multiprocessing_context or multiprocessing.get_context()
        loader.multiprocessing_context = shielded_context(context)
    # Lightning does it after the first iterator is made, whose workers may read ahead by then.
    if set_epoch := getattr(loader.sampler, "set_epoch", None):
        set_epoch(trainer.current_epoch)


def are_loaders_exact(trainer: "Trainer") -> bool:
    """Whether the loaders go on where they were; one without a length is read a batch ahead."""
    from lightning.pytorch.utilities import CombinedLoader

    loaders = CombinedLoader(trainer.train_dataloader).flattened
    has_length = trainer.num_training_batches != float("inf")
    return has_length and all(hasattr(loader, "load_state_dict") for loader in loaders)


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
