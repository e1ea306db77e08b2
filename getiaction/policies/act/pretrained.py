"""Reads a trained ACT: from a directory that lerobot wrote, or from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import fsspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from getiaction.downloads.secrets import shown_cause, without_secrets
from getiaction.policies.act.config import ACTConfig
from getiaction.policies.act.model import ACTModel

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_NORMALIZER = "policy_preprocessor*normalizer*.safetensors"
# lerobot up to 0.3 stores statistics as buffers of the policy, in modules with these names.
_BUFFERS = ("normalize_inputs", "normalize_targets", "unnormalize_outputs")
# These do not affect the shape of the weights, so they can be set when the weights are loaded.
_CALLERS_CHOICE = ("n_action_steps", "temporal_ensemble_coeff", "dropout")


@dataclass(frozen=True)
class Pretrained:
    """A trained ACT that was read from files.

    Attributes:
        hparams: Arguments of `ACT` that the weights determine.
        stats: Type, shape and statistics of each feature by key, as in `LeRobotDataset.stats`.
        weights: Tensors by parameter name, as in `ACTModel.state_dict()`.
        path: File or directory that the weights were read from.
    """

    hparams: dict[str, Any]
    stats: dict[str, dict[str, Any]]
    weights: dict[str, Tensor]
    path: str

    def load_into(self, model: ACTModel) -> None:
        """Copy the weights into a network.

        Args:
            model: Network that was built from `hparams` and `stats`.

        Raises:
            ValueError: The names or shapes of the weights do not fit.
        """
        normalizer = {
            name: value
            for name, value in model.state_dict().items()
            if name.startswith("normalizer.")
        }
        try:
            model.load_state_dict({**normalizer, **self.weights})
        except RuntimeError as error:
            message = (
                f"ACT: the weights in {without_secrets(self.path)} do not fit their own config: "
                f"{error}\n"
                "download or export them again"
            )
            raise ValueError(message) from error


def read_pretrained(name_or_path: str, hparams: Mapping[str, Any]) -> Pretrained:
    """Read a trained ACT.

    Args:
        name_or_path: Lightning checkpoint (*.ckpt) of `ACT`, or a directory or Hugging Face Hub
            repository with the config.json and model.safetensors of lerobot's ACT.
        hparams: Arguments of the new policy. n_action_steps, temporal_ensemble_coeff and dropout
            replace the stored ones if they differ from their defaults; dataset_stats is used if
            lerobot's files have no statistics.

    Returns:
        Hyperparameters, statistics and weights, from which the same network can be built.

    Raises:
        ValueError: A file is missing or damaged, or is not an ACT.
    """
    if name_or_path.endswith(".ckpt") or "://" in name_or_path:  # which may end with a signature
        return _read_checkpoint(name_or_path, hparams)
    directory = Path(name_or_path)
    if not directory.is_dir():
        directory = _download(name_or_path)
    return _read_lerobot(directory, hparams)


def _callers_choice(hparams: Mapping[str, Any]) -> dict[str, Any]:
    return {
        field.name: hparams[field.name]
        for field in fields(ACTConfig)
        if field.name in _CALLERS_CHOICE and hparams[field.name] != field.default
    }


def _read_checkpoint(path: str, hparams: Mapping[str, Any]) -> Pretrained:
    try:
        with fsspec.open(path, "rb") as file:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        saved = checkpoint["hyper_parameters"]
        network = {field.name: saved[field.name] for field in fields(ACTConfig)}
        network["use_imagenet_stats"] = saved["use_imagenet_stats"]
        stats = saved["dataset_stats"]
        weights = checkpoint["state_dict"]
    except Exception as error:  # noqa: BLE001 - file systems and kinds of damage have their own exceptions
        message = (
            f"ACT: {without_secrets(path)} cannot be read as a checkpoint of ACT: "
            f"{without_secrets(repr(error), path)}\n"
            "use a *.ckpt file that Trainer.fit(ACT(), ...) wrote"
        )
        raise ValueError(message) from shown_cause(error, path)
    weights = {name.removeprefix("model."): value for name, value in weights.items()}
    return Pretrained({**network, **_callers_choice(hparams)}, stats, weights, path)


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=[_CONFIG, _WEIGHTS, _NORMALIZER]))
    except Exception as error:  # noqa: BLE001 - network, hub and naming errors have no common base class
        message = (
            f"ACT: {without_secrets(repo_id)!r} is neither a directory nor a repository on the "
            f"Hugging Face Hub that can be downloaded: {without_secrets(str(error), repo_id)}\n"
            "check the name, or use a directory with its files"
        )
        raise ValueError(message) from shown_cause(error, repo_id)


def _read_lerobot(directory: Path, hparams: Mapping[str, Any]) -> Pretrained:
    try:
        config = json.loads((directory / _CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(directory / _WEIGHTS)
        saved_stats: dict[str, Tensor] = {}
        for path in directory.glob(_NORMALIZER):
            saved_stats.update(load_file(path))
    except (OSError, ValueError, SafetensorError) as error:
        message = (
            f"ACT: {directory} cannot be read as a lerobot policy: {error}\n"
            f"use a directory with a complete {_CONFIG} and {_WEIGHTS}"
        )
        raise ValueError(message) from error
    if config.get("type") != "act":
        message = f"ACT: {directory / _CONFIG} has type={config.get('type')!r}\nuse an ACT policy"
        raise ValueError(message)

    weights = {
        name.removeprefix("model."): value
        for name, value in tensors.items()
        if name.startswith("model.")
    }
    stats: dict[str, dict[str, Any]] = {}
    for key, feature in {**config["input_features"], **config["output_features"]}.items():
        stats[key] = {"type": feature["type"], "shape": feature["shape"]}
        mode = config["normalization_mapping"].get(feature["type"], "IDENTITY")
        if mode not in ("IDENTITY", "MEAN_STD"):
            message = (
                f"ACT: {directory / _CONFIG} normalises {key} by {mode}\n"
                "use a policy that was trained with MEAN_STD"
            )
            raise ValueError(message)
        for name in ("mean", "std") if mode == "MEAN_STD" else ():
            buffer = f"buffer_{key.replace('.', '_')}.{name}"
            found = [tensors[f"{b}.{buffer}"] for b in _BUFFERS if f"{b}.{buffer}" in tensors]
            found += [saved_stats[f"{key}.{name}"]] if f"{key}.{name}" in saved_stats else []
            given = (hparams["dataset_stats"] or {}).get(key, {})
            if found:
                # lerobot divides by std + 1e-8.
                value = found[0] + 1e-8 if name == "std" else found[0]
                stats[key][name] = value.tolist()
            elif name in given:
                stats[key][name] = given[name]
            else:
                message = (
                    f"ACT: {directory} has no {name} of {key}, so its weights cannot be used\n"
                    "add dataset_stats=LeRobotDataset(...).stats of the data it was trained on"
                )
                raise ValueError(message)

    # For keys that lerobot's config does not have, ACTConfig's defaults do what lerobot does: keep
    # the size of images and freeze the normalisation.
    network = asdict(ACTConfig.from_mapping({**config, **_callers_choice(hparams)}))
    return Pretrained({**network, "use_imagenet_stats": False}, stats, weights, str(directory))
