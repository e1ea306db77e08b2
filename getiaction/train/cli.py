"""The parser and runner of the `getiaction` command: LightningCLI, configured for this package."""

import difflib
import inspect
import os
import pydoc
import re
import sys
from argparse import ArgumentError
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.cli import SaveConfigCallback as LightningSaveConfigCallback
from lightning.pytorch.utilities import rank_zero_warn

# Classes that are imported here can be given to `--model` and `--data` by their bare name.
from getiaction.data import LeRobotDataModule  # noqa: F401 - see the comment above
from getiaction.demo import DotDataModule  # noqa: F401 - see the comment above
from getiaction.downloads.secrets import without_secrets
from getiaction.lightning_seams import subcommand_parsers
from getiaction.policies import ACT  # noqa: F401 - see the comment above
from getiaction.train.plain_yaml import write_plain_values
from getiaction.train.predictions import PredictionFiles
from getiaction.train.trainer import Trainer
from getiaction.train.unique_keys import duplicate_key

CONFIG_SUFFIXES = (".yaml", ".yml", ".json")

RENAMED = {
    **dict.fromkeys(("gpus", "ngpus", "num_gpus", "gpu", "gpus_per_node", "tpu_cores"), "devices"),
    **dict.fromkeys(("nodes", "nnodes", "n_nodes"), "num_nodes"),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), "max_epochs"),
    **dict.fromkeys(("steps", "num_steps", "n_steps"), "max_steps"),
    **dict.fromkeys(("name", "run_name"), "experiment_name"),
}
"""Keys of other tools and of earlier versions of Lightning, with today's key of the Trainer."""

UNKNOWN_CLASS = re.compile(r'^Parser key "(.+)":[^$]*dot import path string: (.*)')

UNKNOWN_KEY = re.compile(r"(?:accept option|Option) '([^']+)'|unrecognized arguments: -*([^\s=]+)")


class SaveConfigCallback(LightningSaveConfigCallback):
    """Saves config.yaml in the run's directory; only a launcher's run has it overwritten."""

    def setup(self, trainer: LightningTrainer, pl_module: LightningModule, stage: str) -> None:
        """Save config.yaml, unless it exists and the run does not belong to a launcher."""
        directory = trainer.log_dir
        path = os.path.join(directory or "", self.config_filename)  # noqa: PTH118 - may be a URL
        is_taken = trainer.strategy.broadcast(get_filesystem(path).exists(path))
        if is_taken and not self.overwrite and not self.already_saved:
            # Loggers that have no directory, such as wandb's, return the working directory.
            rank_zero_warn(
                f"{path} already exists and is kept: the config of this run is not saved."
            )
            return
        super().setup(trainer, pl_module, stage)


class CLI(LightningCLI):
    """LightningCLI with this package's Trainer: `fit`, `validate`, `test` and `predict`.

    It accepts any LightningModule and LightningDataModule; those of this package may be given by
    their bare name. The working directory is on the import path. Mistakes raise an exception and
    never exit the process.

    Args:
        args: Command line as a list of words, or the config as a dict; None reads `sys.argv`.
        run: Whether to run a subcommand. If False, `args` has no subcommand, and the instances are
            only created, as the attributes `trainer`, `model` and `datamodule`.

    Raises:
        ArgumentError: An argument does not parse, or a class refuses it; the message names it and
            says what to write instead.
    """

    def __init__(self, args: ArgsType = None, *, run: bool = True) -> None:
        if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds strings
            sys.path.insert(0, os.getcwd())  # noqa: PTH109 - sys.path holds strings
        write_plain_values()
        options = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            trainer_class=Trainer,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": "GETIACTION_RUN_DIR" in os.environ},
            parser_kwargs={**options, **{name: dict(options) for name in self.subcommands()}},
            args=args,
            run=run,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse `args` regardless of `sys.argv`; Lightning's own method warns if both are given."""
        words = sys.argv[1:] if args is None else args if isinstance(args, list) else []
        files = [word.rpartition("=")[2] for word in words if word.endswith(CONFIG_SUFFIXES)]
        for file in files:
            if found := duplicate_key(Path(file)):
                raise ArgumentError(None, f"{file}: {found}.\nJoin the two, or remove one.")
        try:
            if args is None or isinstance(args, list):
                self.config = parser.parse_args(args)
            else:
                self.config = parser.parse_object(args)
        except ArgumentError as error:
            fit_parser = next(iter(subcommand_parsers(self).values()), parser)
            keys = fit_parser.get_defaults().keys()
            # For a YAML error, the parser reports the line, but not the file.
            message = str(error).replace('"<unicode string>"', " or ".join(files))
            raise ArgumentError(None, explain(message, keys)) from error

    def _parse_ckpt_path(self) -> None:
        """Keep the spec's model if a script has saved the checkpoint.

        Beware: Lightning has the arguments that a checkpoint holds replace those of the spec. One
        that a script has saved does not name the class that they belong to, and is refused there.
        """
        try:
            super()._parse_ckpt_path()
        except ArgumentError:
            path = self.config[self.config.subcommand]["ckpt_path"]
            rank_zero_warn(
                f"{without_secrets(str(path))} was not saved by `getiaction fit`, which keeps the "
                "model's arguments of the spec."
            )

    def before_predict(self) -> None:
        """Save the predictions, unless a callback of the user does so."""
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined] # set by Lightning
        if not any(isinstance(callback, BasePredictionWriter) for callback in callbacks):
            callbacks.append(PredictionFiles())

    def before_instantiate_classes(self) -> None:
        """Check that the checkpoint exists before seconds are spent on building the model."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        path = config.get("ckpt_path")
        if not path or str(path).partition(":")[0] in {"best", "last", "hpc", "registry"}:
            return
        shown = without_secrets(str(path))
        folder = shown.rpartition("/")[0] or "."
        look = "ls" if "://" not in folder else "aws s3 ls" if folder.startswith("s3:") else "see"
        try:
            problem = "" if get_filesystem(path).exists(path) else "does not exist"
        except (OSError, ValueError, ImportError) as error:  # as of a server or a missing package
            problem = f"cannot be read: {without_secrets(str(error), str(path))}"
        if problem:
            msg = f"ckpt_path={shown} {problem}.\nLook for its right name: {look} {folder}/"
            raise ArgumentError(None, msg)

    def instantiate_classes(self) -> None:
        """Create model, data and Trainer; what their constructors refuse is an argument error."""
        try:
            super().instantiate_classes()
        except (OSError, ValueError, MisconfigurationException) as error:
            message = str(error)
            if "empty parameter list" in message:
                message = (
                    "--optimizer needs a model that has parameters before its data is known.\n"
                    "Use the model's own arguments instead: --model.optimizer_lr=1e-4"
                )
            raise ArgumentError(None, explain(message, ())) from error


def _nearest(key: str, keys: Iterable[str]) -> str:
    """Name the three valid keys that are nearest to the one that was typed."""
    last = key.rpartition(".")[2]

    def likeness(other: str) -> float:
        name = other.rpartition(".")[2]
        if name == RENAMED.get(last, last):
            return 1
        pairs = (key, other), (last, name)
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    nearest = sorted(keys, key=likeness, reverse=True)[:3]
    if last in RENAMED:
        nearest = [other for other in nearest if likeness(other) == 1] or nearest
    return f"Valid keys, nearest first: {', '.join(nearest)}" if nearest else "It takes no keys."


def explain(message: str, keys: Iterable[str]) -> str:
    """Shorten an error message of jsonargparse, and suggest the nearest keys for an unknown one.

    Args:
        message: Text of an ArgumentError that jsonargparse raised.
        keys: Keys that the parser accepts, such as "trainer.max_epochs".

    Returns:
        What was wrong and, if it is known, what to write instead.
    """
    if (unknown := UNKNOWN_KEY.search(message)) and keys:
        key = unknown[1] or unknown[2]
        owners = re.findall(r"Problem with given class_path '([^']+)'", message[: unknown.start()])
        if owners:
            owner: Any = pydoc.locate(owners[-1])
            keys = inspect.signature(owner).parameters
        return f"unknown key {key!r}{f' of {owners[-1]}' if owners else ''}.\n{_nearest(key, keys)}"
    if "required: " in message and message.endswith(".model"):
        return "no model given.\nUse --model ACT, or in the config file: model: ACT"
    if unknown_class := UNKNOWN_CLASS.search(message):
        return (
            f"{unknown_class[1]}: unknown class {unknown_class[2]!r}.\n"
            f"For a class of your own, add its module: my_module.{unknown_class[2]}"
        )
    noise = ("Does not validate against", "Subtypes:", "Errors:", "Given value type:")
    message = message.partition("\nGiven value: Namespace(")[0]
    lines = [line for line in message.splitlines() if not line.strip().startswith(noise)]
    text = "\n".join(line for line in lines if not line.endswith("Expected a <class 'NoneType'>"))
    text = re.sub(r"<class '([\w.]+)'>", r"\1", text)
    text = re.sub(r"NestedArg\(key='(.+?)', val='?(.*?)'?\)", r"\1=\2", text)
    return re.sub(r'Parser key "([^"]+)":', r"\1:", text)
