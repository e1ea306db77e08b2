"""Pretrained weights of the vision backbone: where they are, and how they are downloaded."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import fsspec
import torch
from filelock import FileLock, Timeout
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from getiaction.downloads.secrets import shown_cause, without_secrets

# Files of torchvision, whose names end with the first digits of their SHA-256.
_URL = "https://download.pytorch.org/models"
_FILES = {"resnet18": "resnet18-f37072fd.pth", "resnet34": "resnet34-b627a593.pth"}
_VERSIONS = ("IMAGENET1K_V1", "DEFAULT")
_TIMEOUT_S = 10.0
_LOCK_TIMEOUT_S = 600.0


class BackboneWeights:
    """The weights that a backbone starts from.

    ImageNet weights are torchvision's files. They are looked up in torch's cache
    (`torch.hub.get_dir()`) and downloaded if they are missing. If the network cannot be reached,
    that costs one timeout and a warning, and training starts without them.

    Args:
        name_or_path: torchvision's name of ImageNet weights, such as
            "ResNet18_Weights.IMAGENET1K_V1", or a path or fsspec URL of such a file; None starts
            from random weights.
        backbone: Name of the backbone, "resnet18" or "resnet34".
        norm: Normalisation that the user chose; must be None if there are pretrained weights,
            because they determine it.

    Raises:
        ValueError: The weights belong to another backbone, or `norm` is given together with them.
    """

    def __init__(self, name_or_path: str | None, backbone: str, norm: str | None) -> None:
        if name_or_path is not None and norm is not None:
            message = (
                f"ACT: backbone_norm={norm!r} cannot be combined with "
                f"pretrained_backbone_weights={without_secrets(name_or_path)!r}, which determine "
                "it\n"
                "omit backbone_norm, or set pretrained_backbone_weights to null"
            )
            raise ValueError(message)
        self._path = name_or_path
        self._backbone = backbone
        self._cached: Path | None = None
        self._reason = "not downloaded"
        self._missing = False
        prefix, _, version = (name_or_path or "").rpartition(".")
        if version in _VERSIONS:
            own = backbone.replace("resnet", "ResNet") + "_Weights"
            if prefix not in ("", own):
                message = (
                    f"ACT: pretrained_backbone_weights={name_or_path!r} does not fit "
                    f"vision_backbone={backbone!r}\npretrained_backbone_weights={own}.{version}"
                )
                raise ValueError(message)
            self._cached = Path(torch.hub.get_dir()) / "checkpoints" / _FILES[backbone]
            self._path = str(self._cached)

    def download(self) -> None:
        """Download ImageNet weights to torch's cache, if they are wanted and missing.

        If several processes call this at once, one downloads and the others wait for it. If it
        fails, the others do not retry, so that they do not wait for one timeout after another.
        """
        path = self._cached
        if path is None or path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            with lock.acquire(timeout=_LOCK_TIMEOUT_S):
                self._reason = "another process failed to download it"
            return
        try:
            url, digest = f"{_URL}/{path.name}", path.stem.rpartition("-")[2]
            with _socket_timeout(_TIMEOUT_S):
                torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:  # no network, or a wrong hash
            self._reason = str(error)
        finally:
            lock.release()

    def find(self, trainer: Trainer | None) -> str | None:
        """Find the weights, if every rank can read them.

        Args:
            trainer: Trainer whose ranks must agree: either all use the weights or none does. If
                None, missing ImageNet weights are downloaded first.

        Returns:
            A path or URL; None if no weights are wanted, or if a rank does not have them.
        """
        if self._cached is None:
            return self._path
        if trainer is None:
            self.download()
        found = self._cached.exists()
        if trainer is not None:
            found = trainer.strategy.reduce_boolean_decision(found, all=True)
        self._missing = not found
        return self._path if found else None

    def forget(self) -> None:
        """Do not warn about missing weights, because a checkpoint replaces them."""
        self._missing = False

    def warn_if_missing(self) -> None:
        """Warn once, on rank 0, that the weights were not found, with the reason and a fix."""
        if self._missing and self._cached is not None:
            rank_zero_warn(
                f"ACT: no pretrained weights for {self._backbone}: {self._cached} is missing on "
                f"some node ({self._reason}). The backbone starts from random weights with group "
                f"normalisation, and needs more data and time. Save {_URL}/{self._cached.name} as "
                "that file, or set pretrained_backbone_weights to its path. To train from scratch "
                "without this warning, set it to null."
            )
        self._missing = False


def load_weights(backbone: nn.Module, path: str) -> None:
    """Load pretrained weights into a backbone.

    Args:
        backbone: A `ResNet` with frozen batch normalisation.
        path: Local path or fsspec URL of a file that `torch.save` wrote, with torchvision's
            parameter names.

    Raises:
        ValueError: The file does not exist or cannot be read, or its weights do not fit.
    """
    try:
        with fsspec.open(path, "rb") as file:
            content: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
        weights = {
            name: value
            for name, value in content.items()
            if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
        }
        backbone.load_state_dict(weights)
    except Exception as error:  # noqa: BLE001 - file systems and kinds of damage have their own exceptions
        message = (
            f"ACT: pretrained_backbone_weights={without_secrets(path)!r} cannot be loaded: "
            f"{without_secrets(str(error), path)}\n"
            f"use a copy of {_URL}/{_FILES['resnet18']} (resnet18), or null to train from scratch"
        )
        raise ValueError(message) from shown_cause(error, path)


def refuse_weights_on_some_ranks(trainer: Trainer, norm: str | None) -> None:
    """Check that either every rank starts from pretrained backbone weights or none does.

    Args:
        trainer: Trainer whose ranks are compared; every rank must call this.
        norm: Normalisation of this rank's backbone, which follows from its weights.

    Raises:
        RuntimeError: The ranks have different normalisations.
    """
    frozen = norm == "frozen_batch_norm"
    decide = trainer.strategy.reduce_boolean_decision
    if decide(frozen, all=True) != decide(frozen, all=False):
        message = (
            "some ranks found the pretrained weights of the backbone and others did not\n"
            "use one file for all ranks: pretrained_backbone_weights=/shared/resnet18.pth"
        )
        raise RuntimeError(message)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torch.hub has no option for a timeout.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
