"""The network of the Action Chunking Transformer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from getiaction.policies.act.config import ACTConfig
from getiaction.policies.act.normalization import Normalizer
from getiaction.policies.act.resnet import N_FEATURES, ResNet
from getiaction.policies.act.transformer import (
    Decoder,
    Encoder,
    sine_position_1d,
    sine_position_2d,
)

STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"
ACTION = "action"
GREY_OR_RGB = (1, 3)


class ACTOutput(NamedTuple):
    """The network's output for a batch.

    Attributes:
        actions: Normalised actions, (B, chunk_size, A).
        mu: Mean of the posterior, (B, latent_dim); None outside training and without a VAE.
        log_sigma_x2: Logarithm of the posterior's variance, (B, latent_dim); None where `mu` is.
    """

    actions: Tensor
    mu: Tensor | None
    log_sigma_x2: Tensor | None


class ACTLoss(NamedTuple):
    """The loss of a batch and its parts, each a scalar.

    Attributes:
        loss: Sum of the parts, l1_loss + kl_weight * kl_loss.
        l1_loss: Mean absolute error of the normalised actions, without padding.
        kl_loss: KL divergence of the posterior from N(0, 1), summed over the latent dimensions and
            averaged over the batch; zero if there is no posterior.
    """

    loss: Tensor
    l1_loss: Tensor
    kl_loss: Tensor


class ACTModel(nn.Module):
    """Action Chunking Transformer, Zhao et al. 2023, https://arxiv.org/abs/2304.13705.

    A transformer encoder gets the observations as tokens: the latent, the state, the environment
    state, and each pixel of the cameras' feature maps. The decoder attends to them with chunk_size
    queries, one for each action. In training the latent is drawn from a posterior, which a second
    encoder computes from the actions (a conditional VAE); otherwise it is zero.

    Parameters have the names of lerobot's, whose weights can therefore be loaded unchanged. In
    addition there are the buffers of the normaliser.

    Args:
        config: Configuration that determines the shape of the network.
        stats: Type, shape and statistics of each of the dataset's features by key. Features of type
            "VISUAL" are cameras; besides these, "observation.state",
            "observation.environment_state" and "action" are used. Others are ignored.

    Raises:
        ValueError: The dataset has no action, or neither camera nor environment state, or a camera
            that is neither grey nor RGB.
    """

    vae_encoder_pos_enc: Tensor

    def __init__(
        self,
        config: ACTConfig,
        stats: Mapping[str, Mapping[str, Any]],
    ) -> None:
        super().__init__()
        self.config = config
        self.cameras = _camera_keys(stats)
        self.has_state = STATE in stats
        self.has_environment_state = ENVIRONMENT_STATE in stats
        observations = [*self.cameras, STATE, ENVIRONMENT_STATE]
        self.observations = [key for key in observations if key in stats]
        used = {key: stats[key] for key in (*self.observations, ACTION)}
        self.shapes = {key: tuple(feature["shape"]) for key, feature in used.items()}
        self.normalizer = Normalizer(used)
        dim = config.dim_model
        action_dim = self.shapes[ACTION][0]
        if config.use_vae:
            self.vae_encoder = Encoder(config, config.n_vae_encoder_layers)
            self.vae_encoder_cls_embed = nn.Embedding(1, dim)
            if self.has_state:
                self.vae_encoder_robot_state_input_proj = nn.Linear(self.shapes[STATE][0], dim)
            self.vae_encoder_action_input_proj = nn.Linear(action_dim, dim)
            self.vae_encoder_latent_output_proj = nn.Linear(dim, 2 * config.latent_dim)
            n_tokens = 1 + self.has_state + config.chunk_size
            self.register_buffer("vae_encoder_pos_enc", sine_position_1d(n_tokens, dim)[None])
        if self.cameras:
            self.backbone = ResNet(
                config.vision_backbone,
                config.backbone_norm,
                replace_final_stride_with_dilation=config.replace_final_stride_with_dilation,
            )
            self.encoder_img_feat_input_proj = nn.Conv2d(N_FEATURES, dim, kernel_size=1)
        self.encoder = Encoder(config, config.n_encoder_layers)
        self.decoder = Decoder(config)
        self.encoder_latent_input_proj = nn.Linear(config.latent_dim, dim)
        if self.has_state:
            self.encoder_robot_state_input_proj = nn.Linear(self.shapes[STATE][0], dim)
        if self.has_environment_state:
            self.encoder_env_state_input_proj = nn.Linear(self.shapes[ENVIRONMENT_STATE][0], dim)
        n_1d_tokens = 1 + self.has_state + self.has_environment_state
        self.encoder_1d_feature_pos_embed = nn.Embedding(n_1d_tokens, dim)
        self.decoder_pos_embed = nn.Embedding(config.chunk_size, dim)
        self.action_head = nn.Linear(dim, action_dim)
        for parameter in (*self.encoder.parameters(), *self.decoder.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, batch: Mapping[str, Any], noise: Tensor | None = None) -> ACTOutput:
        """Predict a chunk of actions for each observation.

        Args:
            batch: Observations in the dataset's units: cameras (B, C, H, W) in [0, 1],
                "observation.state" (B, D) and "observation.environment_state" (B, E). In training
                with a VAE also "action" (B, chunk_size, A), and "action_is_pad" (B, chunk_size)
                bool if there is padding.
            noise: Sample of N(0, 1) that the latent is drawn with, (B, latent_dim); None draws one.

        Returns:
            The normalised actions, and in training with a VAE the posterior.

        Raises:
            ValueError: The batch lacks a feature, or a feature has the wrong shape.
        """
        batch = self._as_vectors(batch)
        self._check(batch, self.observations)
        values = {
            key: self.normalizer.normalize(key, batch[key])
            for key in self.observations
            if key not in self.cameras
        }
        n_batch = len(batch[self.observations[0]])
        mu = log_sigma_x2 = None
        if self.config.use_vae and self.training:
            self._check(batch, [ACTION])
            mu, log_sigma_x2 = self._posterior(batch, values.get(STATE))
            noise = torch.randn_like(mu) if noise is None else noise
            latent = mu + (log_sigma_x2 / 2).exp() * noise
        else:
            weight = self.encoder_latent_input_proj.weight
            latent = weight.new_zeros(n_batch, self.config.latent_dim)

        tokens = [self.encoder_latent_input_proj(latent)[:, None]]
        if self.has_state:
            tokens.append(self.encoder_robot_state_input_proj(values[STATE])[:, None])
        if self.has_environment_state:
            token = self.encoder_env_state_input_proj(values[ENVIRONMENT_STATE])
            tokens.append(token[:, None])
        positions = [self.encoder_1d_feature_pos_embed.weight]
        for image in self._images(batch):
            features = self.encoder_img_feat_input_proj(self.backbone(image))
            height, width = features.shape[-2:]
            # Cameras of the same size are stacked along the batch, so that the backbone runs once.
            features = features.flatten(2).transpose(1, 2).unflatten(0, (-1, n_batch))
            position = sine_position_2d(height, width, self.config.dim_model, features.device)
            position = position.to(features.dtype)
            tokens.extend(features)
            positions.extend([position] * len(features))

        position = torch.cat(positions)[None]
        memory = self.encoder(torch.cat(tokens, dim=1), position)
        queries = self.decoder_pos_embed.weight[None]
        decoded = self.decoder(
            torch.zeros_like(queries).expand(n_batch, -1, -1), memory, position, queries
        )
        return ACTOutput(self.action_head(decoded), mu, log_sigma_x2)

    def predict(self, batch: Mapping[str, Any]) -> Tensor:
        """Predict chunks of actions in the dataset's units.

        Args:
            batch: Observations in the dataset's units, as for `forward`.

        Returns:
            Actions in the dataset's units, (B, chunk_size, A).
        """
        return self.normalizer.denormalize(ACTION, self(batch).actions)

    def loss(
        self, batch: Mapping[str, Any], kl_weight: float, noise: Tensor | None = None
    ) -> ACTLoss:
        """Compute the loss of the paper's equation 1, ignoring padding.

        Args:
            batch: Observations and actions, as for `forward`; "action" is always needed, and
                "action_is_pad" if there is padding.
            kl_weight: Weight of the KL divergence in the loss.
            noise: Sample of N(0, 1) that the latent is drawn with, (B, latent_dim); None draws one.

        Returns:
            The loss and its parts, each a scalar.

        Raises:
            ValueError: The batch lacks a feature, or a feature has the wrong shape.
        """
        batch = self._as_vectors(batch)
        self._check(batch, [ACTION])
        output = self(batch, noise)
        target = self.normalizer.normalize(ACTION, batch[ACTION])
        errors = functional.l1_loss(output.actions, target, reduction="none")
        is_pad = batch.get("action_is_pad")
        if is_pad is None:
            l1_loss = errors.mean()
        else:
            # A batch that is all padding has a loss of zero, not NaN.
            n_valid = (~is_pad).sum().clamp(min=1) * errors.shape[-1]
            l1_loss = errors.masked_fill(is_pad[..., None], 0).sum() / n_valid
        kl_loss = torch.zeros_like(l1_loss)
        if output.mu is not None and output.log_sigma_x2 is not None:
            mu, log_sigma_x2 = output.mu, output.log_sigma_x2
            # Kingma and Welling 2013, https://arxiv.org/abs/1312.6114, appendix B.
            divergence = (mu**2 + log_sigma_x2.exp() - log_sigma_x2 - 1) / 2
            kl_loss = divergence.sum(-1).mean()
        return ACTLoss(l1_loss + kl_weight * kl_loss, l1_loss, kl_loss)

    def _posterior(self, batch: Mapping[str, Any], state: Tensor | None) -> tuple[Tensor, Tensor]:
        actions = self.normalizer.normalize(ACTION, batch[ACTION])
        tokens = [self.vae_encoder_cls_embed.weight.expand(len(actions), 1, -1)]
        if state is not None:
            tokens.append(self.vae_encoder_robot_state_input_proj(state)[:, None])
        n_extra = len(tokens)
        tokens.append(self.vae_encoder_action_input_proj(actions))
        mask = None
        if "action_is_pad" in batch:
            mask = functional.pad(~batch["action_is_pad"], (n_extra, 0), value=True)[:, None, None]
        # Only the class token is used, so the last layer computes nothing else.
        class_token = self.vae_encoder(
            torch.cat(tokens, dim=1), self.vae_encoder_pos_enc, mask, n_out=1
        )[:, 0]
        mu, log_sigma_x2 = self.vae_encoder_latent_output_proj(class_token).chunk(2, dim=-1)
        return mu, log_sigma_x2

    def _images(self, batch: Mapping[str, Any]) -> list[Tensor]:
        by_size: dict[tuple[int, ...], list[Tensor]] = {}
        for key in self.cameras:
            image = self.normalizer.normalize(key, batch[key])
            size = self.config.image_size
            if size is not None and image.shape[-2:] != size:
                image = functional.interpolate(image, size, mode="bilinear", antialias=True)
            image = image.expand(-1, 3, -1, -1)
            by_size.setdefault(tuple(image.shape[-2:]), []).append(image)
        return [torch.cat(images) for images in by_size.values()]

    def _as_vectors(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the last axis to features of shape (1,), which are scalars in LeRobot's samples."""
        numbers = {
            key: batch[key][..., None]
            for key, shape in self.shapes.items()
            if key in batch and shape == (1,) and batch[key].ndim == (2 if key == ACTION else 1)
        }
        return {**batch, **numbers} if numbers else batch

    def _check(self, batch: Mapping[str, Any], keys: Iterable[str]) -> None:
        for key in keys:
            if key not in batch:
                message = f"ACT needs {key!r}, but the batch has only {', '.join(batch)}"
                raise ValueError(message)
            value, shape = batch[key], self.shapes[key]
            if key == ACTION:
                shape = (self.config.chunk_size, *shape)
                fits = value.shape[1:] == shape
                fix = (
                    f'set delta_timestamps={{"action": [i / fps for i in range({shape[0]})]}}, or '
                    "train with getiaction.train.Trainer, which requests such chunks"
                )
            elif key in self.cameras:
                # Image transforms may change height and width.
                fits = value.ndim == len(shape) + 1 and value.shape[1] == shape[0]
                fix = "pass one image of the current time per sample; add a batch dimension to a "
                fix += "single image: image[None]"
            else:
                fits = value.shape[1:] == shape
                fix = "pass one observation of the current time per sample; add a batch dimension "
                fix += "to a single one: value[None]"
            if not fits:
                wanted = ", ".join(map(str, ("batch", *shape)))
                message = f"{key} has shape {tuple(value.shape)}, but ACT needs ({wanted})\n{fix}"
                raise ValueError(message)
            if not value.is_floating_point():
                message = f"{key} has dtype {value.dtype}, but ACT needs float32\n"
                message += "value / 255" if key in self.cameras else "value.float()"
                raise ValueError(message)


def _camera_keys(stats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    keys = [key for key, feature in stats.items() if feature["type"] == "VISUAL"]
    message = ""
    if ACTION not in stats:
        message = f"ACT needs the feature 'action', but the dataset has {', '.join(stats)}\n"
        message += "rename the dataset's action to 'action'"
    elif not keys and ENVIRONMENT_STATE not in stats:
        message = f"ACT needs a camera or {ENVIRONMENT_STATE!r}, but the dataset has "
        message += f"{', '.join(stats)}\nuse a dataset with an observation.image"
    for key in keys:
        n_channels = stats[key]["shape"][0]
        if n_channels not in GREY_OR_RGB:
            message = f"{key} has {n_channels} channels, but ACT needs grey (1) or RGB (3)\n"
            message += "remove this camera from the dataset's features"
    if message:
        raise ValueError(message)
    return keys
