"""Temporal ensembling of overlapping action chunks."""

from __future__ import annotations

import torch
from torch import Tensor


class TemporalEnsemble:
    """Average, for each moment, all the actions that were ever predicted for it.

    Zhao et al. 2023, https://arxiv.org/abs/2304.13705, section IV-B and algorithm 2: the i-th
    prediction for a moment, counted from the oldest (i = 0), has the weight exp(-coeff * i). A
    positive coefficient trusts old predictions more, zero is the plain mean.

    Args:
        coeff: Coefficient of the exponential weights; the paper uses 0.01.
        chunk_size: Actions per chunk.
    """

    def __init__(self, coeff: float, chunk_size: int) -> None:
        self._weights = torch.exp(-coeff * torch.arange(chunk_size))
        self._steps = 0
        self._weighted_sum: Tensor | None = None
        self._weight_sum: Tensor | None = None

    def update(self, chunk: Tensor) -> Tensor:
        """Add the newest chunk and take the action of this moment.

        Args:
            chunk: (B, chunk_size, A), actions for this moment and those after it.

        Returns:
            (B, A), the weighted mean of all predictions for this moment.
        """
        size = chunk.shape[1]
        # How many earlier chunks reached each moment: the last moment of a chunk is always new.
        n_earlier = torch.arange(size - 1, -1, -1).clamp(max=self._steps)
        weights = self._weights[n_earlier].to(chunk)
        weighted = weights[:, None] * chunk
        if self._weighted_sum is not None and self._weight_sum is not None:
            weighted[:, :-1] += self._weighted_sum
            weights[:-1] += self._weight_sum
        self._weighted_sum, self._weight_sum = weighted[:, 1:], weights[1:]
        self._steps += 1
        return weighted[:, 0] / weights[0]
