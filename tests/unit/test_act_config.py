"""ACTConfig refuses shapes that cannot be, with the fix."""

from typing import Any

import pytest

from getiaction.policies import ACT
from getiaction.policies.act.config import ACTConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_obs_steps": 2}, "n_obs_steps=2.*n_obs_steps=1"),
        ({"chunk_size": 10}, "n_action_steps=100.*n_action_steps=10"),
        ({"temporal_ensemble_coeff": 0.01}, "n_action_steps=100.*n_action_steps=1"),
        ({"n_heads": 7}, "dim_model=512.*n_heads=7"),
        ({"dim_model": 6, "n_heads": 2}, "dim_model=6.*of 4"),
        ({"n_heads": 0}, "n_heads=0"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"vision_backbone": "resnet50"}, "'resnet50'.*resnet18, resnet34"),
        ({"feedforward_activation": "glu"}, "'glu'.*relu, gelu"),
        ({"backbone_norm": "batch", "pretrained_backbone_weights": None}, "'batch'.*group_norm"),
        ({"image_size": (96,)}, r"image_size=\(96,\).*height, width"),
        (
            {"vision_backbone": "resnet34"},
            "ResNet18_Weights.*resnet34.*ResNet34_Weights.IMAGENET1K_V1",
        ),
        ({"backbone_norm": "group_norm"}, "backbone_norm='group_norm'.*null"),
    ],
)
def test_a_mistake_is_named_with_its_fix(arguments: dict[str, Any], message: str) -> None:
    """The constructor of the policy says which argument is wrong and what to write."""
    with pytest.raises(ValueError, match=f"(?s){message}"):
        ACT(**arguments)


def test_other_keys_are_ignored() -> None:
    """A config is taken out of a mapping that has more, and may leave the norm undecided."""
    values = {"chunk_size": 7, "n_action_steps": 3, "image_size": [4, 5], "optimizer_lr": 1.0}
    config = ACTConfig.from_mapping({**values, "backbone_norm": None})
    assert (config.chunk_size, config.n_action_steps, config.image_size) == (7, 3, (4, 5))
