"""Weights that were trained before: lerobot's directories, and our own checkpoints."""

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

from getiaction.policies.act.config import ACTConfig
from getiaction.policies.act.model import ACTModel

_CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_NORMALIZER = "policy_preprocessor*normalizer*.safetensors"
# lerobot up to 0.3 keeps statistics as buffers of the policy, under these names.
_BUFFERS = ("normalize_inputs", "normalize_targets", "unnormalize_outputs")
# These do not shape the weights, so whoever loads them may choose anew.
_CALLERS_CHOICE = ("n_action_steps", "temporal_ensemble_coeff", "dropout")


@dataclass(frozen=True)
class Pretrained:
    """A trained ACT on its way into a new one.

    Attributes:
        hparams: Arguments of `ACT` that the weights decide.
        stats: Features and statistics by key, as in `LeRobotDataset.stats`.
        weights: Values by name of `ACTModel.state_dict()`.
        path: Where they come from.
    """

    hparams: dict[str, Any]
    stats: dict[str, dict[str, Any]]
    weights: dict[str, Tensor]
    path: str

    def load_into(self, model: ACTModel) -> None:
        """Copy the weights.

        Args:
            model: Built from `hparams` and `stats`.

        Raises:
            ValueError: Names or shapes differ.
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
                f"ACT: the weights in {self.path} do not fit their own config: {error}\n"
                "download or export them again"
            )
            raise ValueError(message) from error


def read_pretrained(name_or_path: str, hparams: Mapping[str, Any]) -> Pretrained:
    """Read a trained ACT.

    Args:
        name_or_path: A Lightning checkpoint (*.ckpt) of `ACT`; or a directory, or a Hugging Face
            Hub repository, with the config.json and model.safetensors of lerobot's ACT.
        hparams: The new policy's arguments: n_action_steps and temporal_ensemble_coeff are taken
            from here where they differ from their defaults; dataset_stats where lerobot's files
            have no statistics.

    Returns:
        What is needed to build the same network again.

    Raises:
        ValueError: Something is missing, damaged, or not an ACT.
    """
    if name_or_path.endswith(".ckpt"):
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
    except Exception as error:  # each file system and each kind of damage has its own exception
        message = (
            f"ACT: {path} cannot be read as a checkpoint of ACT: {error!r}\n"
            "give a *.ckpt file that Trainer.fit(ACT(), ...) wrote"
        )
        raise ValueError(message) from error
    weights = {name.removeprefix("model."): value for name, value in weights.items()}
    return Pretrained({**network, **_callers_choice(hparams)}, stats, weights, path)


def _download(repo_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, allow_patterns=[_CONFIG, _WEIGHTS, _NORMALIZER]))
    except Exception as error:  # network, hub and naming errors have no common ancestor
        message = (
            f"ACT: {repo_id!r} is neither a directory nor a repository that the Hugging Face Hub "
            f"gives: {error}\ncheck the name, or download it and give its directory"
        )
        raise ValueError(message) from error


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
            f"it needs a whole {_CONFIG} and {_WEIGHTS}"
        )
        raise ValueError(message) from error
    if config.get("type") != "act":
        message = f"ACT: {directory / _CONFIG} says type={config.get('type')!r}\nuse an ACT policy"
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

    # Where lerobot's config says nothing, ACTConfig's defaults are lerobot's: no resizing, frozen
    # normalisation.
    network = asdict(ACTConfig.from_mapping({**config, **_callers_choice(hparams)}))
    return Pretrained({**network, "use_imagenet_stats": False}, stats, weights, str(directory))
