"""Acting on a robot: from observations to chunks of actions, and from chunks to single actions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from getiaction.policies.act.config import ACTConfig
from getiaction.policies.act.ensemble import TemporalEnsemble
from getiaction.policies.act.model import ACTModel


def predict_chunk(model: ACTModel, batch: Mapping[str, Any]) -> Tensor:
    """Predict a chunk of actions for each observation, without dropout and with the latent zero.

    The model is put back into training mode if it was in it.

    Args:
        model: Network that predicts the actions.
        batch: Tensors or NumPy arrays by feature key, with a batch dimension, on any device and of
            any floating-point type; keys that the model does not use are ignored.

    Returns:
        (B, chunk_size, A) actions in the dataset's units, on the model's device.

    Raises:
        ValueError: An observation is missing or has the wrong shape.
    """
    parameter = next(model.parameters())
    observations = {}
    for key in model.observations:
        if key in batch:
            value = torch.as_tensor(batch[key]).to(parameter.device)
            observations[key] = value.to(parameter.dtype) if value.is_floating_point() else value
    training = model.training
    model.eval()
    try:
        return model.predict(observations)
    finally:
        model.train(training)


class ActionQueue:
    """Returns one action per control step, and requests a new chunk when it needs one.

    With temporal ensembling it requests a chunk at every step and averages the overlapping ones;
    otherwise it requests a chunk after every `n_action_steps` actions.

    Args:
        config: Configuration that sets `chunk_size`, `n_action_steps` and
            `temporal_ensemble_coeff`.
    """

    def __init__(self, config: ACTConfig) -> None:
        self._n_action_steps = config.n_action_steps
        self._actions: deque[Tensor] = deque()
        self._ensemble: TemporalEnsemble | None = None
        if config.temporal_ensemble_coeff is not None:
            self._ensemble = TemporalEnsemble(config.temporal_ensemble_coeff, config.chunk_size)

    def next(self, predict: Callable[[], Tensor]) -> Tensor:
        """Return the action of the next control step.

        Args:
            predict: Returns the chunk (B, chunk_size, A) for the current observation; called only
                if a new chunk is needed.

        Returns:
            (B, A) actions, in the units of the chunk.
        """
        if self._ensemble is not None:
            return self._ensemble.update(predict())
        if not self._actions:
            self._actions.extend(predict()[:, : self._n_action_steps].unbind(1))
        return self._actions.popleft()
