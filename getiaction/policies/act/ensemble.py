"""Temporal ensembling of overlapping action chunks."""

from __future__ import annotations

import torch
from torch import Tensor


class TemporalEnsemble:
    """Averages all the actions that were predicted for a time step by overlapping chunks.

    Zhao et al. 2023, https://arxiv.org/abs/2304.13705, section IV-B and algorithm 2: the i-th
    prediction for a time step, counted from the oldest (i = 0), has the weight exp(-coeff * i). A
    positive coefficient gives old predictions more weight; zero gives the plain mean.

    Args:
        coeff: Coefficient of the exponential weights; the paper uses 0.01.
        chunk_size: Number of actions in a chunk.
    """

    def __init__(self, coeff: float, chunk_size: int) -> None:
        self._weights = torch.exp(-coeff * torch.arange(chunk_size))
        self._steps = 0
        self._weighted_sum: Tensor | None = None
        self._weight_sum: Tensor | None = None

    def update(self, chunk: Tensor) -> Tensor:
        """Add the newest chunk, and return the action of the current time step.

        Args:
            chunk: Actions for the current time step and those after it, (B, chunk_size, A).

        Returns:
            Weighted mean of all predictions for the current time step, (B, A).
        """
        size = chunk.shape[1]
        # The number of earlier chunks that cover each time step; the last one of a chunk is new.
        n_earlier = torch.arange(size - 1, -1, -1).clamp(max=self._steps)
        weights = self._weights[n_earlier].to(chunk)
        weighted = weights[:, None] * chunk
        if self._weighted_sum is not None and self._weight_sum is not None:
            weighted[:, :-1] += self._weighted_sum
            weights[:-1] += self._weight_sum
        self._weighted_sum, self._weight_sum = weighted[:, 1:], weights[1:]
        self._steps += 1
        return weighted[:, 0] / weights[0]
