"""What a spec names, built on stand-ins for the cluster's devices."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from getiaction_launch.backends.backend import LOCAL, Backend, record_of
from getiaction_launch.checking.finding import Finding
from getiaction_launch.checking.source.source import Source
from getiaction_launch.plan.plan import Plan

_REPLACED = (
    *("max_epochs", "max_steps", "val_check_interval", "check_val_every_n_epoch"),
    *("limit_train_batches", "limit_val_batches", "overfit_batches", "accumulate_grad_batches"),
)
_SHARED_PARTS = 2
"""How many parts a mount point has at least, below which another machine may have more."""
_OF_THE_KERNEL = (Path("/proc"), Path("/sys"))
_OF_ONE_MACHINE = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))  # noqa: S108 - only compared


@dataclass(frozen=True)
class Place:
    """Where a run would be started, as far as its checks must know.

    Attributes:
        has_queue: Whether the run's job waits in a queue.
        settings: Settings of the backend by name.
        env_vars: Environment variables that the workers get.
        copied: Directory whose code is copied for the run; None if none is.
        is_here: Whether all workers run on this machine.
        lacks_gpus: Whether the run surely has no GPUs, wherever it is.
    """

    has_queue: bool
    settings: Mapping[str, Any]
    env_vars: Mapping[str, str]
    copied: Path | None = None
    is_here: bool = False
    lacks_gpus: bool = False

    @classmethod
    def of(cls, backend: Backend, env_vars: Mapping[str, str]) -> "Place":
        """Return the place where a backend starts a run.

        Args:
            backend: The backend that would start it.
            env_vars: Environment variables that the workers get.
        """
        record = record_of(backend)
        is_here = record.class_path == LOCAL or record.init_args.get("address") == "local"
        return cls(backend.has_queue, record.init_args, env_vars, is_here=is_here)

    @property
    def time_limit_minutes(self) -> float | None:
        """Time limit of each job; None if there is none, or it is not known."""
        limit = self.settings.get("time_limit_minutes")
        return float(limit) if limit else None

    @property
    def other_environment(self) -> str | None:
        """The setting by which workers get other packages than this process has, if any."""
        if "PYTHONPATH" in self.env_vars:
            return "env_vars"
        for key in ("python", "runtime_env"):
            if self.settings.get(key):
                return key
        for key in ("srun", "sbatch"):
            if any("container" in str(name) for name in self.settings.get(key) or {}):
                return key
        return "setup" if self.settings.get("setup") else None


@dataclass(frozen=True)
class Built:
    """Trainer, model and data of a spec.

    Attributes:
        trainer: The Trainer, as the worker of rank 0 would have it.
        model: The LightningModule that the spec names.
        data: The datamodule; None if the model has its own data.
        spec: The spec as its parser understands it, with all defaults.
        plan: The plan of the run.
        place: Where the run would be started.
        scratch: Directory that may be written to.
        send: Function that takes each finding at once.
        source: The script that has built them; None for a spec, which has keys.
        is_seeded: Whether the script has seeded torch before it trains.
        has_loaders: Whether the script has given loaders, which the datamodule only holds.
    """

    trainer: Any
    model: Any
    data: Any
    spec: Mapping[str, Any]
    plan: Plan
    place: Place
    scratch: Path
    send: Callable[[Finding], None]
    source: Source | None = None
    has_loaders: bool = False
    is_seeded: bool = False

    @property
    def script(self) -> str:
        """Name of the script that has built them; empty for a spec."""
        return self.source.name if self.source else ""

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The Trainer's arguments, without those that ``fast_dev_run`` replaces."""
        found: Mapping[str, Any] = self.spec.get("trainer") or {}
        if not found.get("fast_dev_run"):
            return found
        return {name: value for name, value in found.items() if name not in _REPLACED}

    def key_of(self, name: str, default: str) -> str:
        """Return the key of a class of the spec.

        Args:
            name: Name of the class, without its module.
            default: What to return for a class that the spec does not name.
        """
        if self.script:
            return name
        keys = keys_of_classes(self.spec)
        return next((key for path, key in keys.items() if path.endswith(f".{name}")), default)


def is_elsewhere(path: str) -> bool:
    """Return whether a path that is missing here may well be there on the cluster's machines.

    That is so if nothing of it is here but a folder that each machine mounts, or keeps for itself.

    Args:
        path: A path that a user has named.
    """
    place = Path(path)
    if not place.is_absolute():
        return False
    try:
        there = next(each for each in (place, *place.parents) if each.exists())
    except OSError:
        return True
    if there == place or there in _OF_THE_KERNEL:
        return False
    return len(there.parts) <= _SHARED_PARTS or there in _OF_ONE_MACHINE


def keys_of_classes(node: object, key: str = "") -> dict[str, str]:
    """Return the key of each class that a spec names, by the class's path.

    Args:
        node: The spec, or a part of it.
        key: The key of that part.
    """
    found: dict[str, str] = {}
    if isinstance(node, Mapping):
        if isinstance(node.get("class_path"), str):
            found[node["class_path"]] = key
        for name, value in node.items():
            shown = key if name in ("init_args", "dict_kwargs") else f"{key}.{name}".lstrip(".")
            found = {**keys_of_classes(value, shown), **found}
    elif isinstance(node, list):
        for number, value in enumerate(node):
            found = {**keys_of_classes(value, f"{key}[{number}]"), **found}
    return found


def values_of(node: object, key: str = "") -> dict[str, object]:
    """Flatten a spec into values by key, as a user writes the keys: ``trainer.callbacks[0].mode``.

    Args:
        node: The spec, or a part of it.
        key: The key of that part.
    """
    if isinstance(node, Mapping):
        found: dict[str, object] = {}
        for name, value in node.items():
            inner = key if name in ("init_args", "dict_kwargs") else f"{key}.{name}".lstrip(".")
            found |= values_of(value, inner)
        return found
    if isinstance(node, list) and any(isinstance(value, Mapping) for value in node):
        items = [values_of(value, f"{key}[{number}]") for number, value in enumerate(node)]
        return {name: value for item in items for name, value in item.items()}
    return {key: node}
