"""Has a fault come to a drill's run: signals as a scheduler sends them, and sudden deaths.

Each one comes in a decided step, in which all ranks stand, so that a drill can be repeated.
"""

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch
from lightning.pytorch import Trainer

from getiaction_launch.run.checkpoint import all_committed
from getiaction_launch.run.rehearsal.orders import Orders
from getiaction_launch.run.rehearsal.trajectory import FaultNote
from getiaction_launch.run.run import Run
from getiaction_launch.worker.progress import say
from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO

LIMIT_SECONDS = 120.0
"""How long to wait for what a fault must lead to."""
POLL_SECONDS = 0.01
_PARTIAL = re.compile(r"fit_0_step_(\d+)\.partial")

_SIGNALS: dict[str, str] = {
    "warning": "SIGUSR2 to the process of every node",
    "sigterm": "SIGTERM to every process of the job",
    "time-limit": "the time was up: the job's process asked every node to stop",
}


class Faults:
    """The faults of this attempt.

    Args:
        run: The run that this worker belongs to.
        attempt: Number of this attempt of the run, from 0.
        orders: What happens to the run.
        is_asked_to_stop: Returns whether SIGTERM has reached this worker.
    """

    def __init__(
        self, run: Run, attempt: int, orders: Orders, is_asked_to_stop: Callable[[], bool]
    ) -> None:
        self._run, self._attempt, self._orders = run, attempt, orders
        self._step = orders.step_of(attempt)
        self._is_asked_to_stop = is_asked_to_stop

    @property
    def _kills_in_save(self) -> bool:
        return self._orders.fault == "kill-in-save" and self._step is not None

    def come(self, trainer: Trainer, step: int) -> None:
        """Have the fault come, if it is due in this step; all ranks call this in each step.

        Args:
            trainer: The Trainer that fits.
            step: Number of the training batch that begins, from 1.
        """
        if self._step is None:
            return
        io = trainer.strategy.checkpoint_io
        if isinstance(io, BackgroundCheckpointIO) and step >= self._step:
            io.wait()  # a save that kills this process ends here
        if step == self._step and not self._kills_in_save:
            trainer.strategy.barrier("getiaction_launch: drill")  # what was saved is committed
            self._strike(trainer)

    def _strike(self, trainer: Trainer) -> None:
        if self._orders.fault == "lost-rank":
            if trainer.global_rank == trainer.world_size - 1:
                self._note(f"SIGKILL to the worker of rank {trainer.global_rank}")
                die(os.getpid())
            return  # this rank will wait for the lost one
        if trainer.is_global_zero:
            self._note(_SIGNALS[self._orders.fault])
        if self._orders.fault == "warning":
            os.kill(os.getppid(), signal.SIGUSR2)
        elif self._orders.fault == "sigterm":
            _terminate_all()
        await_that(self._is_asked_to_stop, "SIGTERM")

    def _note(self, what: str) -> None:
        committed = [checkpoint.step for checkpoint in all_committed(self._run)]
        FaultNote(self._step or 0, what, committed).write(self._run, self._attempt)

    def torch_save(self, save: Callable[..., Any]) -> Callable[..., Any]:
        """Return what replaces ``torch.save``: it dies in the middle of the decided checkpoint.

        Args:
            save: ``torch.save``, or what the program has replaced it by.
        """

        def save_and_die(obj: object, f: Any, *args: Any, **words: Any) -> None:  # noqa: ANN401 - as in torch.save
            name = _PARTIAL.fullmatch(Path(str(getattr(f, "name", ""))).name)
            if name and int(name[1]) >= (self._step or 0):
                f = DyingFile(f, size_bytes(obj) // 2, self._die_in_save)
            save(obj, f, *args, **words)

        return save_and_die if self._kills_in_save else save

    def _die_in_save(self, path: str, written_bytes: int) -> NoReturn:
        self._note(
            f"SIGKILL to rank 0 and its node after {written_bytes} bytes of {Path(path).name}"
        )
        die(os.getppid(), os.getpid())


class DyingFile:
    """A file that kills its process once half of a checkpoint has been written into it.

    Args:
        file: The binary file that is written.
        most_bytes: How much is written before the process dies.
        die: Called with the name of the file and the number of bytes; does not return.
    """

    def __init__(self, file: Any, most_bytes: int, die: Callable[[str, int], None]) -> None:  # noqa: ANN401 - a binary file
        self._file, self._most_bytes, self._die = file, most_bytes, die
        self._written_bytes = 0

    def write(self, content: Any) -> int:  # noqa: ANN401 - as in BinaryIO
        """Write, and die after half of the checkpoint."""
        written: int = self._file.write(content)
        self._written_bytes += written
        if self._written_bytes > self._most_bytes:
            self._file.flush()
            self._die(str(getattr(self._file, "name", "")), self._written_bytes)
        return written

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a file has
        return getattr(self._file, name)


def size_bytes(content: object) -> int:
    """Return how many bytes the tensors of a checkpoint have at least."""
    found, waiting = 0, [content]
    while waiting:
        each = waiting.pop()
        if isinstance(each, torch.Tensor):
            found += each.nbytes
        elif isinstance(each, dict):
            waiting += each.values()
        elif isinstance(each, list | tuple):
            waiting += each
    return found


def _terminate_all() -> None:
    """Send SIGTERM to this worker, its node's process and its loader processes."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.terminate()
    os.kill(os.getppid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)


def die(*pids: int) -> NoReturn:
    """Kill processes, of which this is the last."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while True:
        signal.pause()  # the signal comes within moments


def await_that(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition; after a limit, say that it did not come and continue.

    Args:
        condition: Returns whether it has come.
        what: What is waited for, for people.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            say(f"drill: waited {LIMIT_SECONDS:.0f} s for {what}, in vain.")
            return
        time.sleep(POLL_SECONDS)
