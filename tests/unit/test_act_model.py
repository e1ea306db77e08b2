"""ACTModel equals lerobot's ACT, and says what it misses."""

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from getiaction.policies.act.config import ACTConfig
from getiaction.policies.act.model import ACTModel
from getiaction.policies.act.transformer import sine_position_2d

DATA = Path(__file__).parents[1] / "data" / "act"
CAMERAS = ("observation.images.top", "observation.images.wrist")
SMALL = ACTConfig(
    chunk_size=6,
    n_action_steps=6,
    dim_model=16,
    n_heads=2,
    dim_feedforward=32,
    n_encoder_layers=1,
    n_vae_encoder_layers=2,
    latent_dim=4,
    dropout=0.0,
)


def make_stats(cameras: tuple[str, ...], size: tuple[int, int], dim: int = 4, n_actions: int = 2):
    """Features of a dataset without statistics: nothing is normalised."""
    return {
        **{key: {"type": "VISUAL", "shape": [3, *size]} for key in cameras},
        "observation.state": {"type": "STATE", "shape": [dim]},
        "action": {"type": "ACTION", "shape": [n_actions]},
    }


def make_batch(stats: dict[str, Any], n: int = 2) -> dict[str, Tensor]:
    """Noise of the shapes that the features have, without padding."""
    batch = {key: torch.rand(n, *feature["shape"]) for key, feature in stats.items()}
    batch["action"] = torch.randn(n, SMALL.chunk_size, *stats["action"]["shape"])
    batch["action_is_pad"] = torch.zeros(n, SMALL.chunk_size, dtype=torch.bool)
    return batch


def fill(model: ACTModel) -> None:
    """Give every weight the value that it has in act_two_cameras.pt's model."""
    for name, tensor in model.state_dict().items():
        if name.startswith("normalizer.") or name.endswith("pos_enc"):
            continue
        random = np.random.RandomState(zlib.crc32(name.encode()))
        values = random.standard_normal(tuple(tensor.shape))
        if tensor.ndim > 1:
            values *= math.sqrt(2 / math.prod(tensor.shape[1:]))
        elif name.endswith("running_var"):
            values = 1 + 0.1 * np.abs(values)
        else:
            values = 0.1 * values + (1 if name.endswith("weight") else 0)
        tensor.copy_(torch.from_numpy(values))


def grad_norms(model: ACTModel) -> dict[str, Tensor]:
    """Return the norm of each parameter's gradient."""
    return {name: parameter.grad.norm() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", ["act_small_env", "act_small_env_novae"])
def test_outputs_and_gradients_equal_lerobots(name: str) -> None:
    """With lerobot's weights and noise, outputs, losses and gradients are lerobot's to 1e-5."""
    expected = torch.load(DATA / f"{name}.pt")
    batch = expected["batch"]
    types = {"observation.state": "STATE", "observation.environment_state": "ENV"}
    stats = {key: {"type": type_, "shape": [batch[key].shape[1]]} for key, type_ in types.items()}
    stats["action"] = {"type": "ACTION", "shape": [batch["action"].shape[2]]}
    model = ACTModel(ACTConfig.from_mapping(expected["config"]), stats)
    missing, unexpected = model.load_state_dict(expected["state_dict"], strict=False)
    assert not unexpected
    assert all(key.startswith("normalizer.") for key in missing)

    output = model(batch, noise=expected["eps"])
    torch.testing.assert_close(output.actions, expected["pred_train"], atol=1e-5, rtol=0)
    if expected["mu"] is not None:
        torch.testing.assert_close(output.mu, expected["mu"], atol=1e-5, rtol=0)
        torch.testing.assert_close(output.log_sigma_x2, expected["log_sigma_x2"], atol=1e-5, rtol=0)
    loss = model.loss(batch, kl_weight=10.0, noise=expected["eps"])
    torch.testing.assert_close(loss.l1_loss, expected["l1_masked_mean"], atol=1e-5, rtol=0)
    assert loss.kl_loss.item() == pytest.approx(expected["loss_dict"].get("kld_loss", 0), abs=1e-5)
    assert loss.loss.item() == pytest.approx(
        loss.l1_loss.item() + 10 * loss.kl_loss.item(), abs=1e-5
    )

    # lerobot 0.4 divides by all elements, padded ones too.
    valid = (~batch["action_is_pad"]).float().mean()
    lerobot_loss = loss.l1_loss * valid + 10 * loss.kl_loss
    torch.testing.assert_close(lerobot_loss, expected["loss"], atol=1e-5, rtol=1e-6)
    lerobot_loss.backward()
    for parameter, norm in grad_norms(model).items():
        reference = expected["grad_norms"][f"model.{parameter}"]
        assert norm.item() == pytest.approx(reference, rel=1e-4, abs=1e-5), parameter

    model.eval()
    torch.testing.assert_close(model(batch).actions, expected["pred_eval"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", ["post_norm", "pre_norm"])
def test_cameras_equal_lerobots(variant: str) -> None:
    """Two cameras through ResNet-18 give lerobot's (and torchvision's) outputs and gradients."""
    content = torch.load(DATA / "act_two_cameras.pt")
    expected, batch = content[variant], content["batch"]
    batch |= {key: batch[key].float() for key in CAMERAS}
    model = ACTModel(ACTConfig.from_mapping(expected["config"]), make_stats(CAMERAS, (48, 80)))
    fill(model)

    output = model(batch, noise=expected["eps"])
    torch.testing.assert_close(output.actions, expected["pred_train"], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.mu, expected["mu"], atol=2e-5, rtol=1e-5)
    loss = model.loss(batch, kl_weight=10.0, noise=expected["eps"])
    valid = (~batch["action_is_pad"]).float().mean()
    assert (loss.l1_loss * valid).item() == pytest.approx(expected["l1_loss"], abs=1e-5)
    assert loss.kl_loss.item() == pytest.approx(expected["kld_loss"], rel=1e-5)
    (loss.l1_loss * valid + 10 * loss.kl_loss).backward()
    norms = grad_norms(model)
    assert norms.keys() == expected["grad_norms"].keys()
    for parameter, norm in norms.items():
        reference = expected["grad_norms"][parameter]
        assert norm.item() == pytest.approx(reference, rel=1e-3, abs=1e-5), parameter

    model.eval()
    torch.testing.assert_close(model(batch).actions, expected["pred_eval"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "camera", "size", "dim", "n_parameters"),
    [
        ("act_pusht_default", "observation.image", (96, 96), 2, 51_588_994),
        ("act_aloha_1cam_480x640", "observation.images.top", (480, 640), 14, 51_613_582),
    ],
)
def test_full_size_has_lerobots_names_and_shapes(
    name: str, camera: str, size: tuple[int, int], dim: int, n_parameters: int
) -> None:
    """The default network has lerobot's state dict, and its number of parameters."""
    with torch.device("meta"):
        model = ACTModel(ACTConfig(), make_stats((camera,), size, dim, dim))
    shapes = {
        f"model.{key}": list(value.shape)
        for key, value in model.state_dict().items()
        if not key.startswith("normalizer.")
    }
    assert shapes == json.loads((DATA / f"{name}.shapes.json").read_text())
    assert sum(parameter.numel() for parameter in model.parameters()) == n_parameters


def test_without_vae_has_lerobots_size() -> None:
    """Without the VAE, PushT's network has 34,219,842 parameters."""
    with torch.device("meta"):
        model = ACTModel(ACTConfig(use_vae=False), make_stats(("observation.image",), (96, 96), 2))
    assert sum(parameter.numel() for parameter in model.parameters()) == 34_219_842


@pytest.mark.parametrize("use_vae", [True, False])
@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm"])
def test_every_parameter_gets_a_gradient(*, use_vae: bool, norm: str) -> None:
    """No parameter is left out of the loss, so plain DDP works."""
    stats = make_stats(CAMERAS, (40, 40))
    config = ACTConfig(**{**vars(SMALL), "use_vae": use_vae, "backbone_norm": norm})
    model = ACTModel(config, stats)
    model.loss(make_batch(stats), kl_weight=10.0).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_only_the_transformer_starts_from_xaviers_weights() -> None:
    """Encoder and decoder are drawn as in the paper's code, the VAE's encoder as torch does."""
    model = ACTModel(SMALL, make_stats(("observation.image",), (32, 32)))
    n_in, n_out = SMALL.dim_feedforward, SMALL.dim_model
    xavier, torchs = math.sqrt(6 / (n_in + n_out)), 1 / math.sqrt(n_in)
    for stack in (model.encoder, model.decoder):
        largest = stack.layers[0].linear2.weight.abs().max().item()
        assert torchs < largest <= xavier
    assert model.vae_encoder.layers[0].linear2.weight.abs().max().item() <= torchs


def test_padding_is_ignored() -> None:
    """Neither the posterior nor the loss depends on what padded actions say."""
    stats = make_stats((), (1, 1)) | {
        "observation.environment_state": {"type": "ENV", "shape": [3]}
    }
    model, batch = ACTModel(SMALL, stats), make_batch(stats)
    batch["action_is_pad"][0, 2:] = True
    noise = torch.randn(2, SMALL.latent_dim)
    before = model.loss(batch, kl_weight=10.0, noise=noise)
    batch["action"][0, 2:] = 1e3
    after = model.loss(batch, kl_weight=10.0, noise=noise)
    torch.testing.assert_close(before, after)


def test_a_batch_of_padding_has_a_finite_loss() -> None:
    """A batch with nothing but padding gives a loss without NaN."""
    stats = make_stats(("observation.image",), (32, 32))
    model, batch = ACTModel(SMALL, stats), make_batch(stats)
    batch["action_is_pad"][:] = True
    assert model.loss(batch, kl_weight=10.0).loss.isfinite()


def test_all_cameras_are_normalised() -> None:
    """Each camera is normalised by its own statistics, under whatever name, one or many."""
    for cameras in (("observation.image",), CAMERAS[:1], CAMERAS):
        plain = make_stats(cameras, (32, 32))
        stats = make_stats(cameras, (32, 32))
        for i, key in enumerate(cameras):
            stats[key] |= {"mean": [0.1 + i, 0.2, 0.3], "std": [[[0.5 + i]], [[0.6]], [[0.7]]]}
        model = ACTModel(SMALL, stats).eval()
        reference = ACTModel(SMALL, plain).eval()
        reference.load_state_dict(
            {k: v for k, v in model.state_dict().items() if not k.startswith("normalizer.")},
            strict=False,
        )
        batch = make_batch(stats)
        by_hand = dict(batch)
        for i, key in enumerate(cameras):
            mean, std = torch.tensor([0.1 + i, 0.2, 0.3]), torch.tensor([0.5 + i, 0.6, 0.7])
            by_hand[key] = (batch[key] - mean[:, None, None]) / std[:, None, None]
        torch.testing.assert_close(model(batch).actions, reference(by_hand).actions)


def test_predictions_have_the_datasets_units() -> None:
    """Predicted actions are denormalised by the action's mean and std."""
    stats = make_stats(("observation.image",), (32, 32))
    stats["action"] |= {"mean": [100.0, -5.0], "std": [10.0, 2.0]}
    model = ACTModel(SMALL, stats).eval()
    batch = make_batch(stats)
    expected = model(batch).actions * torch.tensor([10.0, 2.0]) + torch.tensor([100.0, -5.0])
    torch.testing.assert_close(model.predict(batch), expected)


def test_images_are_resized() -> None:
    """With image_size, cameras of different sizes are seen at this one; grey ones are too."""
    stats = make_stats((), (1, 1)) | {
        "observation.images.a": {"type": "VISUAL", "shape": [3, 50, 70]},
        "observation.images.b": {"type": "VISUAL", "shape": [1, 30, 20]},
    }
    model = ACTModel(ACTConfig(**{**vars(SMALL), "image_size": (64, 96)}), stats)
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    model.loss(make_batch(stats), kl_weight=1.0)
    assert seen == [(4, 3, 64, 96)]


def test_cameras_of_different_sizes_without_resizing() -> None:
    """Without image_size each size goes through the backbone as it is."""
    stats = make_stats((), (1, 1)) | {
        "observation.images.a": {"type": "VISUAL", "shape": [3, 32, 64]},
        "observation.images.b": {"type": "VISUAL", "shape": [3, 96, 32]},
    }
    model = ACTModel(SMALL, stats)
    assert model(make_batch(stats)).actions.shape == (2, SMALL.chunk_size, 2)


def test_dropout_differs_between_samples() -> None:
    """In training, equal observations of one batch get different dropout."""
    stats = make_stats(("observation.image",), (32, 32))
    config = ACTConfig(**{**vars(SMALL), "use_vae": False, "dropout": 0.3})
    model = ACTModel(config, stats)
    batch = {key: value[:1].expand(2, *value.shape[1:]) for key, value in make_batch(stats).items()}
    first, second = model(batch).actions
    assert not torch.allclose(first, second)
    first, second = model.eval()(batch).actions
    torch.testing.assert_close(first, second)


def test_positions_of_an_image_are_detrs() -> None:
    """A pixel's embedding is sines and cosines of its row, then of its column, scaled to 2 pi."""
    position = sine_position_2d(3, 5, 8, torch.device("cpu")).view(3, 5, 8)
    row, column = 2 * math.pi * 2 / 3, 2 * math.pi * 4 / 5
    expected = [
        f(angle / scale)
        for angle in (row, column)
        for scale in (1, 100)
        for f in (math.sin, math.cos)
    ]
    torch.testing.assert_close(position[1, 3], torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observation.state": None}, r"needs 'observation.state'.*observation.image"),
        ({"observation.state": torch.rand(4)}, r"observation.state has shape \(4,\).*\[None\]"),
        ({"observation.image": torch.rand(3, 32, 32)}, r"image has shape \(3, 32, 32\).*\[None\]"),
        (
            {"observation.image": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)},
            r"dtype torch.uint8.*value / 255",
        ),
        ({"action": torch.rand(2, 2)}, r"action has shape \(2, 2\).*\(batch, 6, 2\).*delta_time"),
        ({"action": torch.rand(2, 5, 2)}, r"\(2, 5, 2\), but ACT needs \(batch, 6, 2\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    """A missing feature or a wrong shape is named, with what to do."""
    stats = make_stats(("observation.image",), (32, 32))
    batch = {k: v for k, v in (make_batch(stats) | change).items() if v is not None}
    for model in (ACTModel(SMALL, stats), ACTModel(SMALL, stats).eval()):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            model.loss(batch, kl_weight=1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": None}, "needs the feature 'action'"),
        ({"observation.image": None}, "needs a camera"),
        ({"observation.image": {"type": "VISUAL", "shape": [4, 32, 32]}}, "4 channels"),
        (
            {"action": {"type": "ACTION", "shape": [2], "mean": [0.0], "std": [1.0]}},
            r"action: a mean of shape \[1\]",
        ),
    ],
)
def test_a_dataset_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    """A dataset without what ACT needs is refused with the feature's name."""
    stats = make_stats(("observation.image",), (32, 32)) | change
    with pytest.raises(ValueError, match=message):
        ACTModel(SMALL, {k: v for k, v in stats.items() if v is not None})
