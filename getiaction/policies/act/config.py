"""ACTConfig: the shape of an Action Chunking Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from getiaction.policies.act.resnet import BLOCKS_PER_STAGE

ACTIVATIONS = ("relu", "gelu")
BACKBONE_NORMS = ("frozen_batch_norm", "group_norm")
POSITIVE = (
    "chunk_size",
    "n_action_steps",
    "dim_model",
    "n_heads",
    "dim_feedforward",
    "n_encoder_layers",
    "n_decoder_layers",
    "latent_dim",
    "n_vae_encoder_layers",
)


@dataclass(frozen=True)
class ACTConfig:
    """Everything that determines the layers of an ACT, apart from the dataset's features.

    Names and defaults are those of lerobot's ACT, which follow the paper (Zhao et al. 2023,
    https://arxiv.org/abs/2304.13705, table III); only `image_size` and `backbone_norm` are added.
    The arguments of `ACT` with the same names describe each field.

    Raises:
        ValueError: A value is out of range, or two values contradict each other.
    """

    n_obs_steps: int = 1
    chunk_size: int = 100
    n_action_steps: int = 100
    vision_backbone: str = "resnet18"
    backbone_norm: str = "frozen_batch_norm"
    replace_final_stride_with_dilation: bool = False
    image_size: tuple[int, int] | None = None
    pre_norm: bool = False
    dim_model: int = 512
    n_heads: int = 8
    dim_feedforward: int = 3200
    feedforward_activation: str = "relu"
    n_encoder_layers: int = 4
    n_decoder_layers: int = 1
    use_vae: bool = True
    latent_dim: int = 32
    n_vae_encoder_layers: int = 4
    temporal_ensemble_coeff: float | None = None
    dropout: float = 0.1

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> ACTConfig:
        """Create a config from a mapping that may have other keys as well.

        Args:
            values: Hyperparameters of a policy, or the contents of a lerobot config.json. Other
                keys are ignored, and so is a backbone_norm of None, which is not decided yet.

        Returns:
            The config, in which fields that are missing in `values` have their defaults.

        Raises:
            ValueError: A value is out of range, or two values contradict each other.
        """
        chosen = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        if chosen.get("backbone_norm") is None:
            chosen.pop("backbone_norm", None)
        if chosen.get("image_size") is not None:
            chosen["image_size"] = tuple(chosen["image_size"])
        return cls(**chosen)

    def __post_init__(self) -> None:
        for name in POSITIVE:
            _require(getattr(self, name) >= 1, name, getattr(self, name), f"use {name}=1 or more")
        _require(
            self.n_obs_steps == 1,
            "n_obs_steps",
            self.n_obs_steps,
            "ACT uses the current observation only: n_obs_steps=1",
        )
        _require(
            self.n_action_steps <= self.chunk_size,
            "n_action_steps",
            self.n_action_steps,
            f"a chunk has only chunk_size={self.chunk_size} actions: "
            f"n_action_steps={self.chunk_size}",
        )
        _require(
            self.temporal_ensemble_coeff is None or self.n_action_steps == 1,
            "n_action_steps",
            self.n_action_steps,
            "temporal ensembling predicts a new chunk at every step: n_action_steps=1",
        )
        _require(
            self.dim_model % self.n_heads == 0 and self.dim_model % 4 == 0,
            "dim_model",
            self.dim_model,
            f"use a multiple of n_heads={self.n_heads} and of 4, for sine and cosine of two axes",
        )
        _require(0 <= self.dropout < 1, "dropout", self.dropout, "use 0 <= dropout < 1")
        size = self.image_size
        _require(
            size is None or (len(size) == 2 and min(size) >= 1),  # noqa: PLR2004 - height and width
            "image_size",
            size,
            "use (height, width) in pixels, or null to keep the size of the images",
        )
        for name, known in (
            ("feedforward_activation", ACTIVATIONS),
            ("vision_backbone", tuple(BLOCKS_PER_STAGE)),
            ("backbone_norm", BACKBONE_NORMS),
        ):
            value = getattr(self, name)
            _require(value in known, name, value, f"use one of: {', '.join(known)}")


def _require(condition: bool, name: str, value: object, fix: str) -> None:
    if not condition:
        message = f"ACT: invalid {name}={value!r}\n{fix}"
        raise ValueError(message)
