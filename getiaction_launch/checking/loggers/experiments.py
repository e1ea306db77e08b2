"""What the experiments of Lightning's loggers have, as far as their packages are installed."""

import ast
import contextlib
import functools
import importlib
import inspect
from collections.abc import Iterator

from getiaction_launch.checking.classes.sources import tree_of
from getiaction_launch.errors import nearest_first

_EXPERIMENTS = {
    "CSVLogger": ("lightning.pytorch.loggers.csv_logs.ExperimentWriter",),
    "TensorBoardLogger": ("torch.utils.tensorboard.SummaryWriter", "tensorboardX.SummaryWriter"),
    "WandbLogger": ("wandb.wandb_run.Run",),
    "MLFlowLogger": ("mlflow.tracking.MlflowClient",),
}
"""Classes of what a logger's ``experiment`` is on rank 0; of several, the first that is there."""

_DIRECTORIES = {"SummaryWriter": "log_dir", "ExperimentWriter": "log_dir", "Run": "dir"}
"""The attribute by which an experiment says where it writes, by its class."""


def directory_of(kind: type) -> str | None:
    """Return the attribute by which an experiment says where it writes; None if it has none.

    Args:
        kind: Class of the experiment.
    """
    return _DIRECTORIES.get(kind.__name__)


@functools.cache
def experiment_of(logger: str) -> type | None:
    """Return the class of the experiment of one of Lightning's loggers; None if it is not known.

    Args:
        logger: Name of the logger's class.
    """
    for path in _EXPERIMENTS.get(logger, ()):
        module, _, name = path.rpartition(".")
        with contextlib.suppress(ImportError, AttributeError):
            kind: type = getattr(importlib.import_module(module), name)
            return kind
    return None


@functools.cache
def lacks(kind: type, name: str) -> bool:
    """Return whether no object of a class has an attribute, as far as the class's source says.

    Args:
        kind: Class of the objects that are asked.
        name: Name of the attribute. Those of one underscore are not for others, who may set them.
    """
    if name.startswith("_") or hasattr(kind, name):
        return False
    for each in kind.__mro__[:-1]:
        if {"__getattr__", "__getattribute__"} & vars(each).keys():
            return False
        try:
            tree = tree_of(inspect.getsource(each))
        except (OSError, TypeError):
            tree = None
        if tree is None or name in _stored(tree):
            return False
    return True


def _stored(tree: ast.Module) -> Iterator[str]:
    """Yield the names of all attributes that a class sets, on itself or on anything else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def fix_of_experiment(logger: str, kind: type, name: str) -> str:
    """Return whose experiment has an attribute that the one of a logger lacks, or what is near.

    Args:
        logger: Name of the logger's class.
        kind: Class of its experiment.
        name: Name of the attribute.
    """
    has = [other for other in _EXPERIMENTS if hasattr(experiment_of(other), name)]
    lead = f"The experiment of {logger} has no {name}"
    if has:
        return f"{lead}; that of {has[0]} has: --trainer.logger={has[0]}, or leave it out"
    near = nearest_first(name, _public(kind))
    return f"{lead}. {near} Use what it has, or leave it out"


def fix_of_logger(logger: type, name: str) -> str:
    """Return which of Lightning's loggers has a method that another one lacks, or what is near.

    Args:
        logger: The class that lacks it.
        name: Name of the method.
    """
    from lightning.pytorch import loggers

    kinds = {other: getattr(loggers, other) for other in loggers.__all__}
    has = [other for other, kind in kinds.items() if hasattr(kind, name)]
    lead = f"{logger.__name__} has no {name}"
    if has:
        return f"{lead}; {has[0]} has: --trainer.logger={has[0]}, or leave it out"
    if hasattr(experiment_of(logger.__name__), name):
        return f"{lead}; its experiment has: logger.experiment.{name}"
    return f"{lead}. {nearest_first(name, _public(logger))} Use what it has, or leave it out"


def _public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]
