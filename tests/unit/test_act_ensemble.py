"""TemporalEnsemble averages overlapping chunks as the paper says."""

import math
from pathlib import Path

import torch

from getiaction.policies.act.ensemble import TemporalEnsemble

TRACE = Path(__file__).parents[1] / "data" / "act" / "temporal_ensemble_0.01.pt"


def test_actions_equal_lerobots() -> None:
    """Chunks of two robots give lerobot's ensembled actions, also after a chunk's length."""
    trace = torch.load(TRACE)
    ensemble = TemporalEnsemble(trace["coeff"], trace["chunks"].shape[2])
    actions = torch.stack([ensemble.update(chunk) for chunk in trace["chunks"]])
    torch.testing.assert_close(actions, trace["actions"], atol=1e-6, rtol=1e-5)


def test_the_oldest_prediction_weighs_most() -> None:
    """With a positive coefficient, the i-th oldest prediction has the weight exp(-coeff * i)."""
    ensemble = TemporalEnsemble(0.5, 3)
    for value in (1.0, 2.0, 3.0):
        action = ensemble.update(torch.full((1, 3, 1), value))
    weights = [math.exp(-0.5 * i) for i in range(3)]
    expected = sum(w * v for w, v in zip(weights, (1, 2, 3), strict=True)) / sum(weights)
    torch.testing.assert_close(action, torch.tensor([[expected]]))


def test_a_large_coefficient_stays_finite() -> None:
    """Weights that fall below float32's range do not make the first actions NaN."""
    ensemble, chunk = TemporalEnsemble(5.0, 100), torch.ones(1, 100, 2)
    for _ in range(3):
        torch.testing.assert_close(ensemble.update(chunk), torch.ones(1, 2))
