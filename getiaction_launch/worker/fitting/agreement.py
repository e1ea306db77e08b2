"""How often the ranks agree whether to save or to stop, and what they agree on."""

import enum
import time

import torch
from lightning.pytorch import Trainer

from getiaction_launch.run.rehearsal.orders import own_orders
from getiaction_launch.worker.fitting.batches import batches_done
from getiaction_launch.worker.heart import during

AGREEMENT_BATCHES = 100
"""Most batches between two agreements, in case batches become slower in the meantime."""


class Verdict(enum.IntEnum):
    """What one rank wants, and what all ranks do: the highest value that any rank wants."""

    CONTINUE = 0
    SAVE = 1
    STOP = 2


def is_due(trainer: Trainer, saved_at: float, period_seconds: float) -> bool:
    """Whether a checkpoint is due: by the time, or in a drill by the step.

    Args:
        trainer: The Trainer whose state is saved.
        saved_at: When the last checkpoint was saved, by the monotonic clock.
        period_seconds: Longest time between two checkpoints.
    """
    if orders := own_orders():
        return batches_done(trainer) in orders.saves
    return time.monotonic() - saved_at >= period_seconds


class Agreement:
    """Chooses how many batches lie between two agreements; each one costs an all-reduce.

    The number is computed from values that are the same on all ranks, so the ranks never disagree
    about when to agree.

    Args:
        target_seconds: Time between two agreements that the number of batches is chosen for. In a
            drill, the ranks agree before every batch.
    """

    def __init__(self, target_seconds: float) -> None:
        self._target_seconds = 0 if own_orders() else target_seconds
        self._interval = self._countdown = 1
        self._reached_at = time.monotonic()

    def count_batch(self) -> bool:
        """Count one more batch, and return whether the ranks agree before it."""
        self._countdown -= 1
        return self._countdown == 0

    def reach(self, trainer: Trainer, wish: Verdict) -> Verdict:
        """Return the highest verdict that any rank wants, on all ranks."""
        batches = max(1, self._interval - self._countdown)
        seconds = time.monotonic() - self._reached_at
        values = torch.tensor([float(wish), seconds], device=trainer.strategy.root_device)
        with during("waiting"):
            verdict, seconds = _most(trainer, values).tolist()
        fitting = int(batches * self._target_seconds / max(seconds, 1e-6))
        self._interval = self._countdown = max(
            1, min(fitting, 2 * self._interval, AGREEMENT_BATCHES)
        )
        self._reached_at = time.monotonic()
        return Verdict(int(verdict))


def _most(trainer: Trainer, values: torch.Tensor) -> torch.Tensor:
    """Return the highest of each value among all ranks.

    Strategies for several ranks begin such a reduction with a barrier, which costs as much again.
    """
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return trainer.strategy.reduce(values, reduce_op="max")
    torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
    return values
