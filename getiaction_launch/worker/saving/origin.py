"""Which checkpoints may be unpickled with everything in them, which can be any code.

A checkpoint that this user's processes have written on this machine, or in a directory of a shared
file system, is loaded as it was saved. One that was downloaded, or that belongs to another user, is
loaded with ``weights_only=True``. If it holds objects, these must be of classes that the program
has put into its own hyperparameters, or resuming fails before anything is loaded.
"""

import enum
import importlib
import io
import os
import pickle
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from getiaction_launch.errors import CheckError
from getiaction_launch.run.checkpoint import Marker

_NEVER = {"builtins", "importlib", "operator", "os", "posix", "runpy", "subprocess", "sys"}
"""Modules of which nothing is allowed, whatever the hyperparameters hold."""
_INDEX_NAMES = {
    "collections.OrderedDict",
    "pathlib.PosixPath",
    "torch.Size",
    "torch.serialization._get_layout",
}
"""What torch.distributed.checkpoint writes into an index beside its own plain classes."""


def weights_only_for(path: Path) -> bool | None:
    """Return how Lightning shall load one of the run's own checkpoints.

    Args:
        path: The committed checkpoint to resume from.

    Returns:
        True if only tensors and plain values may be loaded; False if the checkpoint is this user's
        and holds other objects, which torch would refuse; None for Lightning's default.

    Raises:
        CheckError: If the checkpoint is a directory that is not this user's, and its index holds
            more than an index.
    """
    is_own = _is_own(path)
    if path.is_dir():
        if not is_own:
            _check_index(path)
        return None if is_own else True
    unsafe = _unsafe_globals(path)
    if unsafe is None:
        return None if is_own else True
    return not (unsafe and is_own)


def allow_own_classes(trainer: Trainer, module: LightningModule) -> None:
    """Let torch load the classes of the program's hyperparameters from a foreign checkpoint.

    Call it before Lightning loads the checkpoint that the Trainer resumes from.

    Raises:
        CheckError: If the checkpoint holds anything else; it names the classes.
    """
    path = Path(trainer.ckpt_path) if trainer.ckpt_path else None
    if path is None or Marker.read(path) is None or path.is_dir() or _is_own(path):
        return
    if not (unsafe := _unsafe_globals(path)):
        return
    own = _classes_of(trainer, module)
    if foreign := sorted(unsafe - own.keys()):
        raise _refusal(path, ", ".join(foreign))
    torch.serialization.add_safe_globals([own[name] for name in unsafe])


def _is_own(path: Path) -> bool:
    """Whether this user has saved a checkpoint; the marker of a download has the hash of it."""
    marker = Marker.read(path)
    files = [path, path.with_suffix(".json"), *(path.rglob("*") if path.is_dir() else ())]
    is_mine = all(file.lstat().st_uid == os.getuid() for file in files)
    return marker is not None and marker.sha256 is None and is_mine


def _unsafe_globals(path: Path) -> set[str] | None:
    """Return what ``weights_only=True`` refuses to load; None for a format of the user's own."""
    try:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except (ValueError, OSError):
        return None


def _classes_of(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Return what a checkpoint needs for the hyperparameters that the program has now."""
    datamodule = getattr(trainer, "datamodule", None)
    saved = [dict(getattr(each, "hparams", {})) for each in (module, datamodule) if each]
    content = io.BytesIO()
    try:
        torch.save(saved, content)
        content.seek(0)
        names = torch.serialization.get_unsafe_globals_in_checkpoint(content)
    except Exception:  # noqa: BLE001 - whatever the user's objects raise when they are pickled
        return {}
    found = {name: _find(name) for name in names if name.partition(".")[0] not in _NEVER}
    return {name: value for name, value in found.items() if value is not None}


def _find(name: str) -> Any:  # noqa: ANN401 - a class or a function
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None


def _member(owner: object, name: str) -> object:
    """Return a member of an enumeration; before 3.11.4, Python pickles one as a ``getattr``."""
    if isinstance(owner, type) and issubclass(owner, enum.Enum) and name in owner.__members__:
        return owner[name]
    raise pickle.UnpicklingError(f"getattr of {owner!r}")


class _IndexReader(pickle.Unpickler):
    """Reads the index of torch.distributed.checkpoint, which torch unpickles with no limits."""

    def find_class(self, module_name: str, global_name: str) -> object:
        """Find one of the classes of which an index consists."""
        name = f"{module_name}.{global_name}"
        if name in _INDEX_NAMES:
            return super().find_class(module_name, global_name)
        if name == "builtins.getattr":
            return _member
        if module_name == "torch" or module_name.startswith("torch.distributed.checkpoint."):
            found: object = super().find_class(module_name, global_name)
            is_plain = isinstance(found, torch.dtype | torch.layout | torch.memory_format)
            is_enum = isinstance(found, type) and issubclass(found, enum.Enum)
            if is_plain or is_enum or (isinstance(found, type) and is_dataclass(found)):
                return found
        raise pickle.UnpicklingError(name)


def _check_index(path: Path) -> None:
    index, extra = path / ".metadata", path / "meta.pt"
    try:
        if index.exists():
            with index.open("rb") as file:
                _IndexReader(file).load()
        unsafe = extra.exists() and torch.serialization.get_unsafe_globals_in_checkpoint(str(extra))
    except Exception as error:  # whatever a stranger's bytes make pickle raise
        raise _refusal(path, str(error)) from error
    if unsafe:
        raise _refusal(path, ", ".join(unsafe))


def _refusal(path: Path, names: str) -> CheckError:
    return CheckError(
        f"{path} was not saved by you on this machine, and holds more than weights: {names}.",
        "Keep such objects out of the checkpoint, and start again: "
        "self.save_hyperparameters(ignore=[...])",
    )
