"""All ranks agree whether to go on, to save, or to save and stop."""

import enum
import time

import torch
from lightning.pytorch import Trainer

AGREEMENT_SECONDS = 0.5
"""About how often they do."""
AGREEMENT_BATCHES = 100
"""How many batches lie between two agreements at most, should they become slow meanwhile."""


class Verdict(enum.IntEnum):
    """What one rank wishes, and what all do; the higher one prevails."""

    GO_ON = 0
    SAVE = 1
    STOP = 2


class Agreement:
    """When the ranks agree again: not before every batch, as it costs a collective.

    The interval follows from what all ranks know alike, so that they never disagree on it.
    """

    def __init__(self) -> None:
        self._interval = self._countdown = 1
        self._reached_at = time.monotonic()

    def count_batch(self) -> bool:
        """Count another batch; whether to agree before it."""
        self._countdown -= 1
        return self._countdown == 0

    def reach(self, trainer: Trainer, wish: Verdict) -> Verdict:
        """Let every rank know the most that one of them wishes."""
        batches = max(1, self._interval - self._countdown)
        seconds = time.monotonic() - self._reached_at
        told = torch.tensor([float(wish), seconds], device=trainer.strategy.root_device)
        verdict, seconds = trainer.strategy.reduce(told, reduce_op="max").tolist()
        fitting = int(batches * AGREEMENT_SECONDS / max(seconds, 1e-6))
        self._interval = self._countdown = max(
            1, min(fitting, 2 * self._interval, AGREEMENT_BATCHES)
        )
        self._reached_at = time.monotonic()
        return Verdict(int(verdict))
