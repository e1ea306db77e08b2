"""The hooks that note the phases of a fit, so that a hang is noticed and its rank is known.

A beat is also a sign of life: each batch of a validation is one. Whatever the user's own hooks do
between two steps, such as evaluating a policy, may take long (:class:`Pause`).

They are hooks of a callback that is there anyway: Lightning takes several times longer to call an
empty hook of another callback than a note takes.
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from getiaction_launch.run.beats.memory import Pause
from getiaction_launch.run.run import Run
from getiaction_launch.worker.fitting.batches import batches_done
from getiaction_launch.worker.fitting.ownership import OwnCallback
from getiaction_launch.worker.heart import heart
from getiaction_launch.worker.lightning_seams import LightningState


class Beats(OwnCallback):
    """Notes what this rank does; the fetch of a batch and the launcher's saves are noted elsewhere.

    A class that extends this one calls the hooks that it replaces.

    Args:
        run: The run that this worker belongs to.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._heart = heart()
        self._is_fitting = False  # a Trainer also validates, tests and saves outside of fits

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note that a fit begins."""
        del trainer, pl_module
        if stage == "fit":
            self._is_fitting = True
            self._heart.beat("starting", Pause.SETUP)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the steps of earlier attempts."""
        del pl_module
        self._heart.begin_steps(batches_done(trainer))

    def on_train_batch_start(self, *_: Any) -> None:  # noqa: ANN401 - as in Lightning
        """Note that the batch is there."""
        self._heart.in_step("forward")

    def on_before_backward(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        loss: torch.Tensor,
    ) -> None:
        """Note the backward pass, in which DDP waits for the other ranks."""
        del trainer, pl_module, loss
        self._heart.in_step("backward")

    def on_before_optimizer_step(self, *_: object) -> None:
        """Note that the gradients are there."""
        self._heart.in_step("optimizing")

    def on_train_batch_end(self, *_: Any) -> None:  # noqa: ANN401 - as in Lightning
        """Count the step."""
        self._heart.end_step()

    def on_validation_start(self, *_: object) -> None:
        """Note that validation begins."""
        if self._is_fitting:
            self._heart.beat("validating", Pause.LONG)

    def on_validation_batch_start(self, *_: Any) -> None:  # noqa: ANN401 - as in Lightning
        """Note that validation makes progress."""
        if self._is_fitting:
            self._heart.in_step("validating")

    def on_validation_batch_end(self, *_: Any) -> None:  # noqa: ANN401 - as in Lightning
        """Note that validation makes progress; the user's metrics may follow."""
        if self._is_fitting:
            self._heart.beat("validating", Pause.LONG)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: LightningState
    ) -> None:
        """Note that a checkpoint is collected, the user's own included."""
        del trainer, pl_module, checkpoint
        if self._is_fitting:
            self._heart.beat("saving", Pause.LONG)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note that the fit is over: nobody knows what comes next, and how long that takes."""
        del trainer, pl_module
        if stage == "fit":
            self._is_fitting = False
            self._heart.beat("finished", Pause.UNKNOWN)

    def on_exception(self, *_: object) -> None:
        """Note the same; the worker leaves."""
        self._is_fitting = False
        self._heart.beat("finished", Pause.UNKNOWN)
