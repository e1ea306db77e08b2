"""Lightning's Trainer with defaults for robot learning, ready for torchrun and SLURM."""

# ruff: noqa: PYI041 - with a plain `float`, jsonargparse would turn 10 batches into the fraction 10.0

import atexit
import functools
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar, cast

import lightning
import torch.distributed
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

from getiaction.data.source import local_or_url
from getiaction.lightning_seams import (
    PathOrUrl,
    Plugin,
    Precision,
    environment_defaults,
    init_without_environment_defaults,
    requeue_checkpoint,
)
from getiaction.train.callbacks import PolicyDatasetInteraction
from getiaction.train.environment import follow_starter, given_environment, without_requeueing
from getiaction.train.remote_logger import RemoteTensorBoardLogger

_trainers: defaultdict[str, Iterator[int]] = defaultdict(itertools.count)
"""Counts the Trainers of this process in each run."""

Init = TypeVar("Init", bound=Callable[..., None])


def _with_environment_defaults(init: Init) -> Init:
    """Read PL_TRAINER_<PARAMETER> as Lightning does, but do not allow positional arguments."""

    @functools.wraps(init)
    def wrapper(self: lightning.Trainer, **arguments: object) -> None:
        init(self, **(environment_defaults(type(self)) | arguments))

    return cast("Init", wrapper)


class Trainer(lightning.Trainer):
    """Lightning's Trainer, with `experiment_name` and `PolicyDatasetInteraction`.

    Everything else works as in Lightning, including the `PL_TRAINER_<PARAMETER>` environment
    variables: https://lightning.ai/docs/pytorch/stable/common/trainer.html.

    Output is written to `<default_root_dir>/<experiment_name>/version_N/`, or without an experiment
    name to `<default_root_dir>/lightning_logs/version_N/`. If the environment variable
    `GETIACTION_RUN_DIR` is set, as launchers do for their workers, output is written directly to
    that directory, and `default_root_dir` and `experiment_name` are ignored. Further Trainers of
    the same process write to `trainer_1`, `trainer_2` and so on in there.

    Under torchrun, and under SLURM's srun with one task per device, `num_nodes` and `devices` are
    taken from what was started, unless you set them. Under SLURM, Lightning's requeueing is off,
    because it can deadlock; pass `plugins=SLURMEnvironment()` to turn it on.

    Args:
        experiment_name: Folder in `default_root_dir` for the versions of the default logger. If
            there is no default logger (`barebones`, `logger=False`, or loggers of your own), it is
            a folder that is added to `default_root_dir`, and your loggers' folders do not change.
        accelerator: Kind of hardware: "cpu", "gpu", "tpu", "mps", "auto", or an `Accelerator`.
        strategy: How processes share the work: "auto", "ddp", "fsdp", ..., or a `Strategy`.
        devices: Number of devices per node, a list of device indices, or "auto" or -1 for all.
        num_nodes: Number of machines to train on.
        precision: Numeric precision, such as "32-true", "16-mixed" or "bf16-mixed".
        logger: Logger or list of loggers; True or None for TensorBoard, False for none.
        callbacks: Callback or list of callbacks. A `PolicyDatasetInteraction` is added in front,
            unless there is one already.
        fast_dev_run: Number of batches of each loop to run as a check that writes nothing; True
            runs one.
        max_epochs: Stop after this many epochs; -1 for no limit. Lightning's 1000 if neither this
            nor `max_steps` is set.
        min_epochs: Train at least this many epochs.
        max_steps: Stop after this many optimizer steps; -1 for no limit.
        min_steps: Train at least this many optimizer steps.
        max_time: Stop after this time: "DD:HH:MM:SS", a timedelta, or a dict of its keywords.
        limit_train_batches: Number (int) or fraction (float) of the training batches to use.
        limit_val_batches: Number (int) or fraction (float) of the validation batches to use.
        limit_test_batches: Number (int) or fraction (float) of the test batches to use.
        limit_predict_batches: Number (int) or fraction (float) of the prediction batches to use.
        overfit_batches: Number (int) or fraction (float) of the training batches to train and
            validate on, again in every epoch; 0 turns this off.
        val_check_interval: Number of training batches (int), fraction of the epoch (float) or time
            (as in `max_time`) between two validations.
        check_val_every_n_epoch: Number of epochs between two validations; None validates by
            `val_check_interval` alone.
        num_sanity_val_steps: Number of validation batches to run before training; -1 runs all.
        log_every_n_steps: Number of steps between two logged values; None takes Lightning's 50.
        enable_checkpointing: Whether to save checkpoints; None does, unless `barebones` is set.
        enable_progress_bar: Whether to show progress; None does, unless `barebones` is set.
        enable_model_summary: Whether to print the layers; None does, unless `barebones` is set.
        accumulate_grad_batches: Number of batches whose gradients make one optimizer step.
        gradient_clip_val: Value to clip gradients at; None leaves it to the policy.
        gradient_clip_algorithm: How to clip gradients: by "norm" or by "value".
        deterministic: Whether to use deterministic algorithms only; "warn" logs a warning where
            there is none.
        benchmark: Value that `torch.backends.cudnn.benchmark` is set to.
        inference_mode: Whether evaluation uses `torch.inference_mode` rather than `no_grad`.
        use_distributed_sampler: Whether each rank gets its own share of the data.
        profiler: Profiler to use: "simple", "advanced", "pytorch", or a `Profiler`.
        detect_anomaly: Whether autograd checks every gradient for NaN.
        barebones: Whether to turn off every feature that costs speed, to measure overhead.
        plugins: Precision, checkpoint or cluster-environment plugins.
        sync_batchnorm: Whether batch normalisation shares its statistics between ranks.
        reload_dataloaders_every_n_epochs: Number of epochs after which the dataloaders are created
            again; 0 never does.
        default_root_dir: Local path or URL (`s3://...`) that output is written to; None takes the
            working directory, as in Lightning.
        enable_autolog_hparams: Whether to log hyperparameters when a run starts.
        model_registry: Name under which the model is uploaded to a model hub.

    Raises:
        ValueError: `experiment_name` is not a plain name, `devices` or `num_nodes` contradict
            torchrun or srun, Lightning's requeueing left a checkpoint in `default_root_dir`, or
            that is a URL whose bucket does not exist.
        MisconfigurationException: Lightning refuses an argument or a combination of them.
    """

    @_with_environment_defaults
    def __init__(
        self,
        *,
        experiment_name: str | None = None,
        accelerator: str | Accelerator = "auto",
        strategy: str | Strategy = "auto",
        devices: list[int] | str | int = "auto",
        num_nodes: int = 1,
        precision: Precision | None = None,
        logger: Logger | Iterable[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        fast_dev_run: int | bool = False,
        max_epochs: int | None = None,
        min_epochs: int | None = None,
        max_steps: int = -1,
        min_steps: int | None = None,
        max_time: str | timedelta | dict[str, int] | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        check_val_every_n_epoch: int | None = 1,
        num_sanity_val_steps: int | None = 0,
        log_every_n_steps: int | None = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = None,
        accumulate_grad_batches: int = 1,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
        deterministic: bool | Literal["warn"] | None = None,
        benchmark: bool | None = None,
        inference_mode: bool = True,
        use_distributed_sampler: bool = True,
        profiler: Profiler | str | None = None,
        detect_anomaly: bool = False,
        barebones: bool = False,
        plugins: Plugin | list[Plugin] | None = None,
        sync_batchnorm: bool = False,
        reload_dataloaders_every_n_epochs: int = 0,
        default_root_dir: PathOrUrl | None = "experiments",
        enable_autolog_hparams: bool = True,
        model_registry: str | None = None,
    ) -> None:
        arguments = dict(locals())  # all of them, so that none is forgotten
        del arguments["self"], arguments["experiment_name"]

        self._run_directory = _next_run_directory()
        root = local_or_url(self._run_directory or default_root_dir or Path.cwd())
        if experiment_name is not None:
            _check_experiment_name(experiment_name)
        has_default_logger = (logger is None or logger is True) and not barebones
        if has_default_logger:
            logger = self._default_logger(root, experiment_name)
        elif experiment_name and not self._run_directory:
            root = os.path.join(root, experiment_name)  # noqa: PTH118 - root may be a URL

        callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        if not any(isinstance(callback, PolicyDatasetInteraction) for callback in callbacks):
            # It goes first, because other callbacks may use the policy's parameters in `setup`.
            callbacks.insert(0, PolicyDatasetInteraction())

        environment = given_environment(strategy, plugins)
        num_nodes, devices = follow_starter(num_nodes, devices, environment)
        arguments |= {
            "num_nodes": num_nodes,
            "devices": devices,
            "plugins": without_requeueing(plugins, environment),
            "logger": logger,
            "callbacks": callbacks,
            "default_root_dir": root,
        }
        # The environment's defaults are in `arguments` already: see _with_environment_defaults.
        init_without_environment_defaults(self, **arguments)
        if not getattr(environment, "auto_requeue", False):
            self._refuse_stray_checkpoint()
        if self.world_size > 1:
            atexit.register(_leave_process_group)

        if self._run_directory:
            for checkpoint in self.checkpoint_callbacks:
                if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None:
                    checkpoint.dirpath = os.path.join(root, "checkpoints")  # noqa: PTH118 - root may be a URL

    def _default_logger(self, root: str, experiment_name: str | None) -> Logger | bool:
        if self._run_directory:
            return TensorBoardLogger(root, name="", version="", default_hp_metric=False)
        if "://" in root:
            return RemoteTensorBoardLogger(root, name=experiment_name or "lightning_logs")
        if experiment_name:
            return TensorBoardLogger(root, name=experiment_name, default_hp_metric=False)
        return True  # Lightning's own

    @property
    def log_dir(self) -> str | None:
        """Directory of this run: in `GETIACTION_RUN_DIR` if that is set, else as in Lightning.

        Where Lightning has none, since the first logger has none, it is `default_root_dir`.
        """
        log_dir = None if self._run_directory else super().log_dir
        return log_dir or self.default_root_dir

    def _refuse_stray_checkpoint(self) -> None:
        """Refuse to start beside a checkpoint that Lightning would resume without being asked."""
        if SLURMEnvironment.detect() and (stray := requeue_checkpoint(self)):
            msg = (
                f"{stray} was left by Lightning's requeueing of some run, and under SLURM Lightning"
                " would resume this run from it.\nMove it away:"
                f" mv {stray} {stray}.old\nTo resume from it, pass the new path to"
                " fit(ckpt_path=...)"
            )
            raise ValueError(msg)


def _leave_process_group() -> None:
    # Lightning destroys only NCCL's group. Gloo's threads can abort an interpreter that exits while
    # they live, and the task would count as failed although its training has ended well.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _next_run_directory() -> str | None:
    """Return where the next Trainer of this process writes; None if no launcher says so.

    Trainers are counted, so that each finds its own files when the program is started again.
    """
    directory = os.environ.get("GETIACTION_RUN_DIR")
    if not directory:
        return None
    number = next(_trainers[directory])
    return os.path.join(directory, f"trainer_{number}") if number else directory  # noqa: PTH118 - may be a URL


def _check_experiment_name(name: str) -> None:
    if not name.strip() or name in {".", ".."} or "/" in name or "\\" in name:
        msg = (
            f"experiment_name={name!r} is not a plain name: it is a single folder in"
            " default_root_dir.\nPut the folders above it into default_root_dir:"
            " Trainer(default_root_dir='experiments/aloha', experiment_name='act_v1')"
        )
        raise ValueError(msg)
