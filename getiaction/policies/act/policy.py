# ruff: noqa: ARG002 - save_hyperparameters reads the constructor's arguments, and the signatures of
# the steps are Lightning's
"""ACT as a LightningModule: building, training, checkpoints, and acting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from getiaction.data.observation import find_policy_dataset
from getiaction.policies.act.acting import ActionQueue, predict_chunk
from getiaction.policies.act.backbone_weights import (
    BackboneWeights,
    load_weights,
    refuse_weights_on_some_ranks,
)
from getiaction.policies.act.config import ACTConfig
from getiaction.policies.act.model import ACTION, ACTModel
from getiaction.policies.act.normalization import policy_stats, refuse_imagenet_stats
from getiaction.policies.act.pretrained import read_pretrained

_BUILD = "ACT(dataset_stats=dataset.stats), or ACT.load_from_checkpoint(path)"


class ACT(LightningModule):
    """Action Chunking Transformer, Zhao et al. 2023, https://arxiv.org/abs/2304.13705.

    It has no parameters until its dataset is known: `Trainer.fit`, `build_model` or the argument
    `dataset_stats` builds it. The dataset needs "action" and either a camera or
    "observation.environment_state"; "observation.state" is used if there is one. All cameras share
    one backbone. The default learning rate suits the fine-tuning of a pretrained backbone; small
    models that are trained from scratch need 1e-4 or more.

    Args:
        pretrained_name_or_path: Weights to start from: a directory or Hugging Face Hub repository
            that lerobot wrote, or a checkpoint of this class (`*.ckpt`). They determine the shape
            of the network, and arguments about the shape are ignored.
        n_obs_steps: Number of observations that the policy uses; must be 1.
        chunk_size: Number of actions that are predicted at once.
        n_action_steps: Number of actions of a chunk that `select_action` returns before it predicts
            the next chunk.
        vision_backbone: Name of the backbone, "resnet18" or "resnet34".
        pretrained_backbone_weights: Weights that the backbone starts from: torchvision's name of
            ImageNet weights, which are downloaded on first use, or a path or URL of such a file;
            None starts from random weights.
        replace_final_stride_with_dilation: Whether the feature map has stride 16 instead of 32.
        image_size: Size (height, width) in pixels that images are resized to; None keeps theirs.
        pre_norm: Whether to normalise before attention and feed-forward layers instead of after.
        dim_model: Width of a token in the transformers.
        n_heads: Number of attention heads of each layer.
        dim_feedforward: Width of the feed-forward layers.
        feedforward_activation: Activation of the feed-forward layers, "relu" or "gelu".
        n_encoder_layers: Number of layers of the transformer encoder.
        n_decoder_layers: Number of layers of the transformer decoder. The paper says 7, its code
            uses 1 (https://github.com/tonyzhaozh/act/issues/25).
        use_vae: Whether to train as a conditional VAE.
        latent_dim: Width of the VAE's latent.
        n_vae_encoder_layers: Number of layers of the VAE's encoder.
        temporal_ensemble_coeff: If not None, average overlapping chunks with the weights
            exp(-temporal_ensemble_coeff * i), i = 0 for the oldest; needs n_action_steps=1.
        dropout: Dropout probability in the transformers, in [0, 1).
        kl_weight: Weight of the KL divergence in the loss.
        optimizer_lr: Learning rate of everything but the backbone.
        optimizer_lr_backbone: Learning rate of the backbone.
        optimizer_weight_decay: Weight decay of the AdamW optimizer.
        optimizer_grad_clip_norm: Norm to clip gradients at if the Trainer has no
            `gradient_clip_val`; 0 does not clip.
        compile_model: Whether to compile the network with torch.compile.
        use_imagenet_stats: Whether cameras with three channels are normalised with ImageNet's mean
            and std instead of the dataset's.
        dataset_stats: Statistics of the dataset (`LeRobotDataset.stats`), which build the model
            immediately; None builds it later.
        backbone_norm: Normalisation of the backbone, "frozen_batch_norm" or "group_norm"; None
            takes the former with pretrained weights and the latter without. Checkpoints store it.

    Attributes:
        model: Network of the policy; None until it is built.
        observation_delta_indices: Frame offsets of observations; None for the current frame alone,
            without a time dimension.
        reward_delta_indices: Frame offsets of rewards; None, because rewards are not used.

    Raises:
        ValueError: Arguments contradict each other, or a file that they name does not fit.
    """

    model: ACTModel | None
    observation_delta_indices: list[int] | None = None
    reward_delta_indices: list[int] | None = None

    def __init__(
        self,
        pretrained_name_or_path: str | None = None,
        n_obs_steps: int = 1,
        chunk_size: int = 100,
        n_action_steps: int = 100,
        *,
        vision_backbone: str = "resnet18",
        pretrained_backbone_weights: str | None = "ResNet18_Weights.IMAGENET1K_V1",
        replace_final_stride_with_dilation: bool = False,
        image_size: tuple[int, int] | None = (384, 384),
        pre_norm: bool = False,
        dim_model: int = 512,
        n_heads: int = 8,
        dim_feedforward: int = 3200,
        feedforward_activation: str = "relu",
        n_encoder_layers: int = 4,
        n_decoder_layers: int = 1,
        use_vae: bool = True,
        latent_dim: int = 32,
        n_vae_encoder_layers: int = 4,
        temporal_ensemble_coeff: float | None = None,
        dropout: float = 0.1,
        kl_weight: float = 10.0,
        optimizer_lr: float = 1e-5,
        optimizer_lr_backbone: float = 1e-5,
        optimizer_weight_decay: float = 1e-4,
        optimizer_grad_clip_norm: float = 10.0,
        compile_model: bool = False,
        use_imagenet_stats: bool = True,
        dataset_stats: dict[str, dict[str, Any]] | None = None,
        backbone_norm: str | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        # hparams.yaml would store a tuple as a Python object that other programs cannot read.
        size = None if image_size is None else list(image_size)
        stats = dataset_stats and policy_stats(dataset_stats, use_imagenet_stats=use_imagenet_stats)
        self.save_hyperparameters({"image_size": size, "dataset_stats": stats})
        self.model = None
        self._actions: ActionQueue | None = None
        ACTConfig.from_mapping(self.hparams)
        self._backbone_weights = BackboneWeights(
            pretrained_backbone_weights, vision_backbone, backbone_norm
        )
        if pretrained_name_or_path is not None:
            self._load_pretrained(pretrained_name_or_path)
        elif stats is not None:
            self.build_model(stats)

    @property
    def action_delta_indices(self) -> list[int]:
        """Frame offsets of the actions in a sample: a chunk that starts at the current frame."""
        return list(range(self.hparams["chunk_size"]))

    def build_model(self, dataset_stats: Mapping[str, Mapping[str, Any]]) -> None:
        """Create the parameters; do nothing if they exist already.

        With a Trainer, every rank must call this: either all ranks have the backbone's weights or
        none uses them, so that their parameters are the same.

        Args:
            dataset_stats: "type", "shape", "mean" and "std" of each feature by key, as in
                `LeRobotDataset.stats`.

        Raises:
            ValueError: The dataset lacks a feature that ACT needs, or has ImageNet's statistics
                although use_imagenet_stats is False.
        """
        if self.model is not None:
            return
        imagenet_stats = self.hparams["use_imagenet_stats"]
        if not imagenet_stats:
            refuse_imagenet_stats(dataset_stats)
        stats = policy_stats(dataset_stats, use_imagenet_stats=imagenet_stats)
        has_camera = any(feature["type"] == "VISUAL" for feature in stats.values())
        weights = self._backbone_weights.find(self._attached()) if has_camera else None
        norm = self.hparams["backbone_norm"]
        if norm is None:
            norm = "group_norm" if weights is None else "frozen_batch_norm"
        model = self._set_model(stats, norm)
        if weights is not None:
            load_weights(model.backbone, weights)
        if self._attached() is None:
            self._backbone_weights.warn_if_missing()

    def setup(self, stage: str) -> None:
        """Build the model for the Trainer's dataset, unless it exists already.

        Raises:
            ValueError: The data given to `fit` has no statistics to build the model from.
            RuntimeError: The ranks have built different models before.
        """
        if self.model is None:
            dataset = find_policy_dataset(self.trainer)
            if dataset is not None:
                self.build_model(dataset.stats)
            elif stage == "fit":  # in other stages a checkpoint may still build the model
                message = "ACT has no parameters yet, and the data given to fit has no statistics\n"
                message += f"use LeRobotDataModule or LeRobotDataset, or {_BUILD}"
                raise ValueError(message)
        refuse_weights_on_some_ranks(self.trainer, self.hparams["backbone_norm"])

    def prepare_data(self) -> None:
        """Download the backbone's weights. Lightning calls this in one process per node."""
        if self.model is None:
            self._backbone_weights.download()

    def on_fit_start(self) -> None:
        """Warn about missing backbone weights, unless a checkpoint has replaced them."""
        self._backbone_weights.warn_if_missing()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Create the parameters that the checkpoint has weights for."""
        saved = checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]
        if self.model is None or saved["backbone_norm"] != self.hparams["backbone_norm"]:
            self._set_model(saved["dataset_stats"], saved["backbone_norm"])
        self.hparams["dataset_stats"] = saved["dataset_stats"]
        self._backbone_weights.forget()

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Predict a chunk of actions for each observation, as `predict_action_chunk` does."""
        return self.predict_action_chunk(batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch, and log it with its parts.

        `train/loss`, `train/l1_loss` and `train/kl_loss` are means over the epoch and all ranks.
        With the suffix `_step` they are rank 0's values of one step, which need no communication.
        """
        loss = self._built().loss(batch, self.hparams["kl_weight"])
        parts = {name: value.detach() for name, value in loss._asdict().items()}
        if not self.hparams["use_vae"]:
            del parts["kl_loss"]
        size = len(batch[ACTION])
        for name, value in parts.items():
            self.log(f"train/{name}_step", value, prog_bar=name == "loss", batch_size=size)
        means = {f"train/{name}": value for name, value in parts.items()}
        self.log_dict(means, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        return loss.loss

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Log val/l1_loss, with the latent zero as on a robot, and val/loss, which equals it."""
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Log test/l1_loss and test/loss, computed as in `validation_step`."""
        return self._evaluate(batch, "test")

    def predict_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Predict a chunk of actions for each observation, as `predict_action_chunk` does."""
        return self.predict_action_chunk(batch)

    @torch.no_grad()
    def predict_action_chunk(self, batch: Mapping[str, Any]) -> Tensor:
        """Predict a chunk of actions for each observation, with the latent zero and no dropout.

        Args:
            batch: Observations with a batch dimension, as tensors or NumPy arrays on any device and
                of any floating-point type.

        Returns:
            Actions in the dataset's units, (B, chunk_size, A), on this module's device.

        Raises:
            ValueError: An observation is missing or has the wrong shape.
        """
        return predict_chunk(self._built(), batch)

    @torch.no_grad()
    def select_action(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the action of the next control step; call `reset` before each episode.

        Args:
            batch: Observations as for `predict_action_chunk`. Without temporal ensembling they are
                used only at every n_action_steps-th call.

        Returns:
            Actions in the dataset's units, (B, A).
        """
        if self._actions is None:
            self._actions = ActionQueue(self._built().config)
        return self._actions.next(lambda: self.predict_action_chunk(batch))

    def reset(self) -> None:
        """Discard the actions that were predicted and not returned yet: a new episode begins."""
        self._actions = None

    def configure_optimizers(self) -> Optimizer:
        """Return AdamW, with a separate parameter group for the backbone."""
        groups: dict[str, list[Parameter]] = {"optimizer_lr": [], "optimizer_lr_backbone": []}
        for name, parameter in self._built().named_parameters():
            backbone = name.startswith("backbone.")
            groups["optimizer_lr_backbone" if backbone else "optimizer_lr"].append(parameter)
        # Lightning's mixed precision cannot clip the gradients of a fused optimizer.
        trainer = self._attached()
        plugin = None if trainer is None else trainer.precision_plugin
        return AdamW(
            [{"params": group, "lr": self.hparams[lr]} for lr, group in groups.items() if group],
            weight_decay=self.hparams["optimizer_weight_decay"],
            fused=not isinstance(plugin, MixedPrecision),
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip at the Trainer's gradient_clip_val, or else at optimizer_grad_clip_norm."""
        if gradient_clip_val is None:
            gradient_clip_val = self.hparams["optimizer_grad_clip_norm"]
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def _attached(self) -> Trainer | None:
        try:
            return self.trainer
        except RuntimeError:  # raised as long as no Trainer has this module
            return None

    def _evaluate(self, batch: dict[str, Any], stage: str) -> Tensor:
        l1_loss = self._built().loss(batch, self.hparams["kl_weight"]).l1_loss
        values = {f"{stage}/loss": l1_loss, f"{stage}/l1_loss": l1_loss}
        self.log_dict(values, sync_dist=True, batch_size=len(batch[ACTION]))
        return l1_loss

    def _built(self) -> ACTModel:
        if self.model is None:
            message = f"ACT has no parameters yet\ntrain it on a LeRobotDataModule, or use {_BUILD}"
            raise RuntimeError(message)
        return self.model

    def _set_model(self, stats: dict[str, dict[str, Any]], norm: str) -> ACTModel:
        # With these, a checkpoint can be loaded without the dataset and without network access.
        self.hparams.update(dataset_stats=stats, backbone_norm=norm)
        self.hparams["pretrained_backbone_weights"] = None
        model = ACTModel(ACTConfig.from_mapping(self.hparams), stats)
        if self.hparams["compile_model"]:
            model.compile()
        self.model = model.to(self.device)
        self._actions = None
        return model

    def _load_pretrained(self, name_or_path: str) -> None:
        pretrained = read_pretrained(name_or_path, self.hparams)
        self.hparams.update(pretrained.hparams, pretrained_name_or_path=None)
        model = self._set_model(pretrained.stats, pretrained.hparams["backbone_norm"])
        pretrained.load_into(model)
