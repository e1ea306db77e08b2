"""Counts training in batches, which every loop has: the steps that people see.

Optimizer steps do not fit: manual optimization may take none that Lightning sees, or several for a
batch, and with accumulated gradients one stands for several batches.
"""

import math
from typing import Any

from lightning.pytorch import Trainer


def batches_done(trainer: Trainer) -> int:
    """Return how many training batches a fit has begun, over all attempts."""
    return trainer.fit_loop.total_batch_idx + 1


def total_batches(trainer: Trainer) -> int | None:
    """Return how many training batches a fit will have had in the end.

    Returns:
        The number, or None if it is unknown: without a limit, for a loader without length, or for
        ``max_steps`` in manual optimization, where a batch may take any number of steps.
    """
    length = trainer.num_training_batches  # infinite if it is unknown
    epochs: Any = trainer.fit_loop.epoch_progress.current
    # Between two epochs, the loop still counts the batches of the last one.
    begun = 0 if epochs.ready == epochs.processed else trainer.fit_loop.batch_idx + 1
    rest = length - min(begun, length) if length != math.inf else math.inf
    remaining = math.inf
    if trainer.max_epochs not in (None, -1):
        later_epochs = max(0, trainer.max_epochs - trainer.current_epoch - 1)
        remaining = rest + later_epochs * length if later_epochs else rest
    if trainer.max_steps != -1:
        if not trainer.lightning_module.automatic_optimization:
            return None
        steps = max(0, trainer.max_steps - trainer.global_step)
        accumulated = trainer.accumulate_grad_batches
        remaining = min(remaining, _batches_of(steps, accumulated, rest, length))
    return None if remaining == math.inf else batches_done(trainer) + int(remaining)


def _batches_of(steps: int, accumulated: int, rest: float, length: float) -> float:
    """Return how many batches make a number of optimizer steps; an epoch ends with one."""
    if length == math.inf:
        return steps * accumulated
    in_this_epoch = math.ceil(rest / accumulated)
    if steps <= in_this_epoch:
        return min(steps * accumulated, rest)
    per_epoch = math.ceil(length / accumulated)
    epochs, left = divmod(steps - in_this_epoch, max(1, per_epoch))
    return rest + epochs * length + min(left * accumulated, length)
