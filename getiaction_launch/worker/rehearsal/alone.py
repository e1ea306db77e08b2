"""One process of a drill's baseline: the program under Lightning alone, as on SLURM.

The launcher saves nothing, handles no signal and restarts nothing here. A callback records the same
rows as in a drill, and the same faults come in the same steps. Signals reach all processes where
the same batch begins, which is the best case for Lightning's own handler: all ranks save together.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.rehearsal.orders import Orders
from getiaction_launch.run.rehearsal.trajectory import FaultNote
from getiaction_launch.run.run import CODE_VARIABLE, Run
from getiaction_launch.system.child import die_with_parent
from getiaction_launch.worker.assignment import own_attempt
from getiaction_launch.worker.fitting.ownership import before_checkpoints
from getiaction_launch.worker.frozen import use_copy
from getiaction_launch.worker.lightning_seams import watch_fits
from getiaction_launch.worker.rehearsal.faults import DyingFile, await_that, die, size_bytes
from getiaction_launch.worker.rehearsal.rehearsal import Rehearsal
from getiaction_launch.worker.worker import run_plan


class LoneFaults:
    """The faults of this attempt, as a scheduler has them come to Lightning's own processes.

    Args:
        run: The run whose directory gets the notes.
        orders: What happens to the processes.
    """

    def __init__(self, run: Run, orders: Orders) -> None:
        self._run, self._orders = run, orders
        self._step = orders.step_of(own_attempt())
        self._trained = 0

    def come(self, trainer: Trainer, step: int) -> None:
        """Have the fault come, if it is due in this step.

        Args:
            trainer: The Trainer that fits.
            step: Number of the training batch that begins, from 1.
        """
        self._trained = step
        fault = self._orders.fault
        if step != self._step or fault == "kill-in-save":
            return
        trainer.strategy.barrier("getiaction_launch: drill")
        rank = trainer.global_rank
        if fault == "lost-rank":
            if rank == trainer.world_size - 1:
                self._note(f"SIGKILL to rank {rank}")
                die(os.getpid())
            return
        signum = signal.SIGTERM if fault == "sigterm" else signal.SIGUSR1
        if rank == 0:
            self._note(f"{signum.name} to every rank")
        trainer.strategy.barrier("getiaction_launch: drill")
        os.kill(os.getpid(), signum)  # its handler runs here, before the next line
        if signum == signal.SIGUSR1:
            await_that(lambda: False, "the scheduler to end this process")

    def torch_save(self, save: Any) -> Any:  # noqa: ANN401 - torch.save
        """Return what replaces ``torch.save``: it dies in the first save from the step on.

        Args:
            save: ``torch.save``, or what the program has replaced it by.
        """

        def save_and_die(obj: object, f: Any, *args: Any, **words: Any) -> None:  # noqa: ANN401 - as in torch.save
            if self._step is not None and self._trained >= self._step and hasattr(f, "write"):
                f = DyingFile(f, size_bytes(obj) // 2, self._die_in_save)
            save(obj, f, *args, **words)

        return save_and_die if self._orders.fault == "kill-in-save" else save

    def _die_in_save(self, _path: str, written_bytes: int) -> None:
        self._note(f"SIGKILL to rank 0 after {written_bytes} bytes of a checkpoint")
        die(os.getpid())

    def _note(self, what: str) -> None:
        FaultNote(self._trained, what).write(self._run, own_attempt())


class LoneRehearsal(Rehearsal):
    """Records the steps of a program that the launcher does not interrupt."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Shorten the fit, before its loaders are set up.

        Raises:
            CheckError: If the Trainer does not train with all processes that were started.
        """
        started = Plan.of(self._run).topology.world_size
        if trainer.world_size != started:
            raise CheckError(
                f"the Trainer has world_size={trainer.world_size}, and {started} processes were "
                "started as SLURM's tasks.",
                "Leave out num_nodes and devices, which then follow the launch.",
            )
        super().setup(trainer, pl_module, stage)

    def _make_faults(self, orders: Orders) -> Any:  # noqa: ANN401 - has the same methods
        return LoneFaults(self._run, orders)


def _run() -> Run:
    # Not the variable of a worker, by which the user's own Trainer knows that a launcher is there.
    return Run(Path(os.environ["GETIACTION_DRILL_RUN"]))


@contextlib.contextmanager
def _watching(trainer: Trainer, _fit: int) -> Iterator[dict[str, object]]:
    untyped: Any = trainer
    users = untyped.callbacks
    untyped.callbacks = before_checkpoints(users, [LoneRehearsal(_run())])
    try:
        yield {}
    finally:
        untyped.callbacks = users


def main() -> None:
    """Entry of ``python -m getiaction_launch.worker.rehearsal.alone``, for one rank."""
    die_with_parent()
    plan = Plan.of(_run())
    watch_fits(_watching)
    copy = os.environ.get(CODE_VARIABLE)
    run_plan(use_copy(plan, Path(copy)) if copy else plan.moved_to(Path.cwd()))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
