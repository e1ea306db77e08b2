"""Pretrained weights of the vision backbone: where they are, and how they are had."""

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

# torchvision's files; the name ends in the start of the file's SHA-256.
_URL = "https://download.pytorch.org/models"
_FILES = {"resnet18": "resnet18-f37072fd.pth", "resnet34": "resnet34-b627a593.pth"}
_VERSIONS = ("IMAGENET1K_V1", "DEFAULT")
_TIMEOUT_S = 10.0
_LOCK_TIMEOUT_S = 600.0


class BackboneWeights:
    """The weights that a backbone starts from.

    ImageNet's are torchvision's files in torch's cache (the folder torch.hub.get_dir()), and are
    downloaded where they are missing. A network that cannot be reached costs one time-out and a
    warning, it is no error.

    Args:
        name_or_path: torchvision's name of ImageNet weights, such as
            "ResNet18_Weights.IMAGENET1K_V1"; or a path or fsspec URL of such a file; or None.
        backbone: "resnet18" or "resnet34".
        norm: A normalisation that was asked for; pretrained weights leave no choice.

    Raises:
        ValueError: The name is that of another backbone's weights, or a normalisation was asked
            for too.
    """

    def __init__(self, name_or_path: str | None, backbone: str, norm: str | None) -> None:
        if name_or_path is not None and norm is not None:
            message = (
                f"ACT: backbone_norm={norm!r} beside pretrained_backbone_weights={name_or_path!r}, "
                "which decide it\nleave out backbone_norm, or set pretrained_backbone_weights to "
                "null"
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
        """Bring ImageNet weights into torch's cache, if they are wanted and not there.

        Of processes that start at once, one downloads and the others wait for it. If it fails,
        they do not try again, so that many do not wait for many time-outs.
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
        """Find the file that every rank can read.

        Args:
            trainer: Its ranks agree: either all use the weights or none. Without one, missing
                ImageNet weights are downloaded.

        Returns:
            A path or URL; None where no weights are wanted, or where a rank misses them.
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
        """Stop missing the weights: a checkpoint has better ones."""
        self._missing = False

    def warn_if_missing(self) -> None:
        """Say once, on rank 0, that weights were looked for in vain, why, and what helps."""
        if self._missing and self._cached is not None:
            rank_zero_warn(
                f"ACT: no pretrained weights for {self._backbone}: {self._cached} is not there on "
                f"every node ({self._reason}). The backbone starts from random weights with group "
                f"normalisation, and needs more data and time. Put {_URL}/{self._cached.name} "
                "there, or set pretrained_backbone_weights to a path, or to null if you want it so."
            )
        self._missing = False


def load_weights(backbone: nn.Module, path: str) -> None:
    """Read weights into a backbone.

    Args:
        backbone: A `ResNet` with frozen batch normalisation.
        path: File with torchvision's names that torch.save wrote: a local path or an fsspec URL.

    Raises:
        ValueError: There is no such file, or its weights do not fit.
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
    except Exception as error:  # each file system and each kind of damage has its own exception
        message = (
            f"ACT: pretrained_backbone_weights={path!r} cannot be used: {error}\n"
            f"use a copy of {_URL}/{_FILES['resnet18']} (resnet18), or null to train from scratch"
        )
        raise ValueError(message) from error


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
            "some ranks found the backbone's pretrained weights and others did not\n"
            "give all the same file: pretrained_backbone_weights=/shared/resnet18.pth"
        )
        raise RuntimeError(message)


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    # torch.hub offers no time-out of its own.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
