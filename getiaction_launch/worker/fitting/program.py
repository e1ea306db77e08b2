"""Describes what a ``Trainer.fit`` trains, to recognise it in a later attempt of the same program.

Fits are numbered in the order in which a program calls them. A program that skips what it finds
done counts differently when it is started again, and one that was edited trains something else;
giving it the end state of another fit would be wrong without anybody noticing. So a fit is also
described by what is cheap to see and does not change from start to start.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch.utils.data import Subset

from getiaction_launch.storage.strict_json import dumps

_LIMITS = ("max_epochs", "min_epochs", "max_steps", "min_steps", "limit_train_batches")


def digest(trainer: Trainer, arguments: Mapping[str, Any]) -> str:
    """Return a digest of model, data and limits, which is the same in every attempt.

    Args:
        trainer: The Trainer whose ``fit`` is called.
        arguments: The arguments of that call, by name.
    """
    data = arguments.get("datamodule")
    loaders = arguments.get("train_dataloaders")
    if isinstance(loaders, LightningDataModule):
        data, loaders = loaders, None
    described = {
        "limits": {name: _plain(getattr(trainer, name, None)) for name in _LIMITS},
        "model": _module(arguments.get("model")),
        "data": _module(data),
        "loaders": _loaders(loaders),
    }
    text = dumps(described)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _module(module: object) -> object:
    if module is None:
        return None
    about: dict[str, object] = {"class": _name(module)}
    if isinstance(module, LightningModule | LightningDataModule):
        about["hparams"] = _plain(dict(module.hparams))
    if isinstance(module, LightningDataModule):
        own = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        about["settings"] = {k: v for k, v in own.items() if isinstance(v, str | int | float)}
    return about


def _loaders(loaders: object) -> object:
    if isinstance(loaders, Mapping):
        return {str(name): _loaders(loader) for name, loader in loaders.items()}
    if isinstance(loaders, list | tuple):
        return [_loaders(loader) for loader in loaders]
    return None if loaders is None else {"class": _name(loaders), "data": _dataset(loaders)}


def _dataset(loader: object) -> object:
    dataset = getattr(loader, "dataset", None)
    about: dict[str, object] = {"class": _name(dataset)}
    if isinstance(dataset, Subset):  # the folds of a cross-validation
        indices = ",".join(str(int(index)) for index in dataset.indices)
        about["indices"] = hashlib.sha256(indices.encode()).hexdigest()
        dataset = dataset.dataset
    try:
        about["length"] = len(dataset)  # type: ignore[arg-type] # it may have none
    except TypeError:
        about["length"] = None
    return about


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _plain(value: object) -> object:
    """Keep what prints the same in every process; of anything else only its class."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return _name(value)
