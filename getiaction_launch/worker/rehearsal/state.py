"""Everything that a training consists of between two steps, part by part."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer

from getiaction_launch.run.rehearsal.trajectory import LoaderFacts
from getiaction_launch.worker.fitting.lightning_seams import training_loaders
from getiaction_launch.worker.fitting.ownership import OwnCallback
from getiaction_launch.worker.fitting.random_state import random_state
from getiaction_launch.worker.rehearsal.digests import attributes, digest
from getiaction_launch.worker.rehearsal.lightning_seams import users_sampler


def random_digests(trainer: Trainer) -> dict[str, str]:
    """Return the digest of each global random generator of this process."""
    state = random_state(trainer.strategy.root_device)
    return {name: digest(each) for name, each in state.items() if each is not None}


def weights_digest(module: LightningModule) -> str:
    """Return the digest of all parameters and buffers."""
    return digest(module.state_dict())


def parts(trainer: Trainer, module: LightningModule) -> dict[str, str]:
    """Return the digest of each part of the state, by a name that its owner understands.

    Args:
        trainer: The Trainer that fits.
        module: The module that it trains.
    """
    found = {f"weights {name}": digest(value) for name, value in module.state_dict().items()}
    found |= _of_optimizers(trainer)
    for callback in _users(trainer):
        place = f"callback {type(callback).__qualname__}"
        found |= {f"{place}.{key}": value for key, value in attributes(callback, Callback())}
    for path, each in module.named_modules():
        if type(each).__module__.startswith("torch."):
            continue
        base = LightningModule() if each is module else torch.nn.Module()
        place = f"module {'.'.join(filter(None, [type(module).__qualname__, path]))}"
        found |= {f"{place}.{key}": value for key, value in attributes(each, base)}
    untyped: Any = trainer
    if data := untyped.datamodule:
        name = type(data).__qualname__
        own = attributes(data, LightningDataModule())
        found |= {f"data {name}.{key}": value for key, value in own}
    for loader in training_loaders(trainer):
        for part in (loader, *_parts_of(loader)):
            name = type(part).__qualname__
            found |= {f"loader {name}.{key}": v for key, v in attributes(part, depth=0)}
    return found


def _of_optimizers(trainer: Trainer) -> dict[str, str]:
    found = {}
    for number, optimizer in enumerate(trainer.optimizers):
        name = f"{type(optimizer).__name__} {number}" if number else type(optimizer).__name__
        content = optimizer.state_dict()
        found[f"optimizer {name}: its state"] = digest(content["state"])
        for group in content["param_groups"]:
            for key, value in group.items():
                found[f"optimizer {name}: {key}"] = digest([found.get(key), value])
    for config in trainer.lr_scheduler_configs:
        name = f"scheduler {type(config.scheduler).__name__}"
        found[name] = digest(config.scheduler.state_dict())
    return found


def _users(trainer: Trainer) -> list[Callback]:
    untyped: Any = trainer
    return [
        callback
        for callback in untyped.callbacks
        if not isinstance(callback, OwnCallback)
        and not type(callback).__module__.startswith("lightning.")
    ]


def _parts_of(loader: object) -> list[object]:
    found = (
        getattr(loader, "batch_sampler", None),
        _sampler_of(loader),
        getattr(loader, "dataset", None),
    )
    return [each for each in found if each is not None]


def _sampler_of(loader: object) -> object:
    batches = getattr(loader, "batch_sampler", None)
    return users_sampler(getattr(batches, "sampler", None) or getattr(loader, "sampler", None))


def loader_facts(trainer: Trainer) -> list[LoaderFacts]:
    """Describe the training loaders."""
    return [
        LoaderFacts(
            _described(loader), hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
        )
        for loader in training_loaders(trainer)
    ]


def _described(loader: object) -> str:
    named = {"sampler": _sampler_of(loader), "dataset": getattr(loader, "dataset", None)}
    known = [
        f"{what} {type(part).__qualname__}" for what, part in named.items() if part is not None
    ]
    name = type(loader).__qualname__
    return f"{name} ({', '.join(known)})" if known else name
