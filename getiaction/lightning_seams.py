"""Every place where this package relies on internals of Lightning.

Private names and the wording of a warning may change in any release of Lightning. They are used
here and nowhere else, each in a small function that says why no public interface does the same,
and tests/unit/test_trainer_seams.py has a test for each. To support a new release of Lightning,
read this file and run those tests first.

The module stands below `data`, `policies` and `train`, because all three of them need it. The
internals of torch's DataLoader that resuming needs are in `getiaction.data.loader`.
"""

from __future__ import annotations

import inspect
import warnings
from typing import TYPE_CHECKING

from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT as Precision  # noqa: N811
from lightning.fabric.utilities.types import _PATH as PathOrUrl  # noqa: N811
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import _PLUGIN_INPUT as Plugin  # noqa: N811
from lightning.pytorch.utilities.argparse import _parse_env_variables
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

if TYPE_CHECKING:
    import torch

    # Not at run time: the import takes time that only the command line should pay.
    from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# The types above annotate parameters that are passed to Lightning's Trainer unchanged. Lightning
# has no public names for them, and a copy could disagree with what it accepts.
__all__ = [
    "PathOrUrl",
    "Plugin",
    "Precision",
    "close_event_file",
    "environment_defaults",
    "has_event_file",
    "init_without_environment_defaults",
    "input_dtype",
    "loop_data",
    "requeue_checkpoint",
    "sees_batches_before_transfer",
    "silence_empty_validation_warning",
    "subcommand_parsers",
    "uses_distributed_sampler",
]


def environment_defaults(trainer_class: type[Trainer]) -> dict[str, object]:
    """Read the `PL_TRAINER_<PARAMETER>` environment variables of a Trainer's parameters.

    Lightning reads them in a decorator of its own `__init__` only, which knows neither the
    parameters of a subclass nor that they are keyword-only; the function behind it is private.

    Args:
        trainer_class: Trainer whose constructor's parameters are looked up.

    Returns:
        Values by parameter name, with Python literals evaluated; only the variables that are set.
    """
    return vars(_parse_env_variables(trainer_class))


def init_without_environment_defaults(trainer: Trainer, **arguments: object) -> None:
    """Call Lightning's `Trainer.__init__` without the decorator that reads the environment.

    The decorator looks up the parameters of the subclass, and would pass `experiment_name` to a
    constructor that does not have it. There is no switch that turns it off.

    Args:
        trainer: Instance of a subclass, to be initialised.
        **arguments: Arguments of Lightning's Trainer.
    """
    inspect.unwrap(Trainer.__init__)(trainer, **arguments)


def requeue_checkpoint(trainer: Trainer) -> str | None:
    """Find the checkpoint that Lightning's SLURM requeueing left in `default_root_dir`.

    Lightning resumes from it without being asked, and its search for `hpc_ckpt_<N>.ckpt` is
    private. Repeating the search could miss a file that Lightning finds.

    Args:
        trainer: Trainer whose `default_root_dir` is searched.

    Returns:
        Path or URL of the newest such checkpoint; None if there is none.
    """
    return trainer._checkpoint_connector._hpc_resume_path  # noqa: SLF001 - see the docstring


def uses_distributed_sampler(trainer: Trainer) -> bool:
    """Return whether each rank of a Trainer gets its own share of the data.

    The Trainer takes this as the argument `use_distributed_sampler`, and has no attribute for it.

    Args:
        trainer: Trainer that was given, or defaulted, the argument.

    Returns:
        The argument's value.
    """
    return trainer._accelerator_connector.use_distributed_sampler  # noqa: SLF001 - see the docstring


def input_dtype(trainer: Trainer) -> torch.dtype:
    """Return the type that a Trainer converts floating-point inputs to, by its precision.

    Precision plugins have no common attribute for it, and convert before the batch is moved.

    Args:
        trainer: Trainer that runs one of its loops.
    """
    import torch

    converted: torch.Tensor = trainer.precision_plugin.convert_input(torch.zeros(()))
    return converted.dtype


def sees_batches_before_transfer(trainer: Trainer) -> bool:
    """Return whether the code of model or datamodule gets batches that are not on the device yet.

    So it does if one of them has a hook for that, or if a step takes the loader's iterator. Both
    helpers that Lightning itself uses to find out are not documented.

    Args:
        trainer: Trainer that runs one of its loops.
    """
    module, data = trainer.lightning_module, getattr(trainer, "datamodule", None)
    hooks = ("on_before_batch_transfer", "transfer_batch_to_device")
    steps = ("training_step", "validation_step", "test_step", "predict_step")
    return any(
        is_overridden(hook, owner)
        for owner in (module, data)
        if owner is not None
        for hook in hooks
    ) or any(
        is_param_in_hook_signature(step, "dataloader_iter", explicit=True)
        for name in steps
        if callable(step := getattr(module, name, None))
    )


def loop_data(trainer: Trainer) -> list[object]:
    """Return the data that the Trainer was given, for each of its loops.

    Dataloaders that are passed to `fit` without a datamodule appear in a public attribute only
    when training begins, which is too late to build a policy from their dataset; and
    `Trainer.datamodule` still holds the last datamodule when a later call gets dataloaders.

    Args:
        trainer: Trainer in `setup` or later.

    Returns:
        For training, validation within training, validation, test and prediction in this order: a
        datamodule, a collection of dataloaders, or the model if the loop was given no data.
    """
    loops = (
        trainer.fit_loop,
        trainer.fit_loop.epoch_loop.val_loop,
        trainer.validate_loop,
        trainer.test_loop,
        trainer.predict_loop,
    )
    return [loop._data_source.instance for loop in loops]  # noqa: SLF001 - see the docstring


def silence_empty_validation_warning() -> None:
    """Ignore Lightning's warning about an empty list of validation dataloaders.

    An empty list is Lightning's documented way to skip validation, but it warns about it as if it
    were a mistake, with no category of its own and no switch: only the message identifies it.
    """
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")


def has_event_file(logger: TensorBoardLogger) -> bool:
    """Return whether a logger has an event file open.

    The public `TensorBoardLogger.experiment` opens a new file where there is none.

    Args:
        logger: Logger that may not have logged anything yet.

    Returns:
        Whether something was logged since the logger was made or its file was closed.
    """
    return logger._experiment is not None  # noqa: SLF001 - see the docstring


def close_event_file(logger: TensorBoardLogger) -> None:
    """Close a logger's event file, so that the next value begins another one.

    The public `finalize` closes the file too, but keeps the closed writer for later values.

    Args:
        logger: Logger that has an event file open.
    """
    logger.experiment.close()
    logger._experiment = None  # noqa: SLF001 - see the docstring


def subcommand_parsers(cli: LightningCLI) -> dict[str, LightningArgumentParser]:
    """Return the parsers of a command's subcommands, whose keys an error message can suggest.

    LightningCLI hands out the main parser only, and jsonargparse does not list subparsers either.

    Args:
        cli: Command line interface, whose arguments may not be parsed yet.

    Returns:
        Parsers by subcommand, such as "fit"; empty if the command runs none (`run=False`).
    """
    return dict(getattr(cli, "_subcommand_parsers", {}))
