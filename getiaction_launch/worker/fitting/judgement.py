"""What a run is judged by: the metric that the user watches, and whether the loss is finite."""

from collections.abc import Iterator

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

_COUNTERS = ("epoch", "step")
"""What a ModelCheckpoint can monitor only to keep the newest files."""


def monitored(trainer: Trainer) -> list[str]:
    """Return the metrics that callbacks and schedulers monitor, the most important first.

    Args:
        trainer: The Trainer, with its optimizers set up.
    """
    names = dict.fromkeys(_monitored(trainer))
    return [name for name in names if isinstance(name, str) and name not in _COUNTERS]


def _monitored(trainer: Trainer) -> Iterator[object]:
    users: list[object] = [*trainer.callbacks]  # type: ignore[attr-defined] # set in another module
    for kind in (ModelCheckpoint, EarlyStopping):
        yield from (callback.monitor for callback in users if isinstance(callback, kind))
    yield from (config.monitor for config in trainer.lr_scheduler_configs)
    yield from (getattr(callback, "monitor", None) for callback in users)


def modes(trainer: Trainer) -> dict[str, str]:
    """Return for each metric that callbacks monitor whether they look for its ``min`` or ``max``.

    Args:
        trainer: The Trainer, with its callbacks.
    """
    users: list[object] = [*trainer.callbacks]  # type: ignore[attr-defined] # set in another module
    found: dict[str, str] = {}
    for kind in (ModelCheckpoint, EarlyStopping):
        for callback in users:
            if isinstance(callback, kind) and callback.monitor:
                found.setdefault(callback.monitor, callback.mode)
    return found


class LossWatch:
    """Notes since which step the loss has not been finite, without waiting for the device.

    A loss is looked at before each backward pass, so it is the one that is trained on, under manual
    optimization as well. Reading its value there would stop a GPU in every step. So the step is
    kept in a tensor on the device and read only when :meth:`since` is called.
    """

    def __init__(self) -> None:
        self._is_bad: torch.Tensor | None = None
        self._since: torch.Tensor | None = None
        self._step = 0

    def see(self, loss: object, step: int) -> None:
        """Look at a loss, right before its backward pass.

        Args:
            loss: The loss that is trained on.
            step: Steps begun so far, this one included; a step is one training batch.
        """
        if not isinstance(loss, torch.Tensor):
            return
        is_bad = loss.detach().isfinite().all().logical_not()
        if self._is_bad is None:
            self._is_bad, self._step = is_bad, step
        else:  # a batch may have several losses, of several optimizers
            self._is_bad = self._is_bad.logical_or(is_bad.to(self._is_bad.device))

    def end_batch(self) -> None:
        """Note whether one of the batch's losses was not finite."""
        if self._is_bad is None:
            return
        never = torch.full_like(self._is_bad, -1, dtype=torch.int64)
        since = never if self._since is None else self._since.to(never.device)
        begun = torch.where(since < 0, self._step, since)
        self._since = torch.where(self._is_bad, begun, never)
        self._is_bad = None

    def since(self) -> int | None:
        """Return since which step every batch has had such a loss; None if the last had none."""
        step = -1 if self._since is None else int(self._since)
        return None if step < 0 else step
