"""Lightning's Trainer with defaults for robot learning, at home under torchrun and SLURM."""

# ruff: noqa: PYI041 - of a plain `float` jsonargparse would make 10.0, a fraction, out of 10 batches

import functools
import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar, cast

import lightning
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

Init = TypeVar("Init", bound=Callable[..., None])


def _with_environment_defaults(init: Init) -> Init:
    """Take PL_TRAINER_<PARAMETER> as Lightning does, which would let positional arguments in."""

    @functools.wraps(init)
    def wrapper(self: lightning.Trainer, **arguments: object) -> None:
        init(self, **(environment_defaults(type(self)) | arguments))

    return cast("Init", wrapper)


class Trainer(lightning.Trainer):
    """Lightning's Trainer, plus `experiment_name` and `PolicyDatasetInteraction`.

    Everything not named here is Lightning's: https://lightning.ai/docs/pytorch/stable/common/trainer.html,
    its environment defaults `PL_TRAINER_<PARAMETER>` included.

    Output goes to `<default_root_dir>/<experiment_name>/version_N/`, without an experiment name to
    `<default_root_dir>/lightning_logs/version_N/`. Where the environment variable
    `GETIACTION_RUN_DIR` is set, as a launcher does for its workers, that directory is the run's
    own: logs, hparams.yaml and checkpoints/ lie directly in it, and `default_root_dir` and
    `experiment_name` yield to it.

    Under torchrun, and under SLURM's srun with one task per device, `num_nodes` and `devices`
    follow what was started when left at their defaults. Under SLURM, Lightning's requeueing is
    off, as it deadlocks; pass `plugins=SLURMEnvironment()` to have it.

    Args:
        experiment_name: Folder under `default_root_dir` for the default logger's versions. With
            `barebones`, `logger=False` or loggers of your own there is no default logger: then it
            is a folder that is added to `default_root_dir`, and your loggers keep their places.
        accelerator: Kind of hardware: "cpu", "gpu", "tpu", "mps", "auto", or an `Accelerator`.
        strategy: How processes share the work: "auto", "ddp", "fsdp", ..., or a `Strategy`.
        devices: How many devices per node, which ones, or "auto" (also -1) for all.
        num_nodes: Number of machines.
        precision: Numeric precision, such as "32-true", "16-mixed" or "bf16-mixed".
        logger: Logger or loggers; True or None for TensorBoard, False for none.
        callbacks: Callback or callbacks. A `PolicyDatasetInteraction` is put before them unless
            there is one among them.
        fast_dev_run: Run this many batches (True: 1) of each loop to find bugs, writing nothing.
        max_epochs: Stop after this many epochs; -1 for no limit. Lightning's 1000 if neither this
            nor `max_steps` is set.
        min_epochs: Train at least this many epochs.
        max_steps: Stop after this many optimizer steps; -1 for no limit.
        min_steps: Train at least this many optimizer steps.
        max_time: Stop after this time: "DD:HH:MM:SS", a timedelta, or its keywords.
        limit_train_batches: Use this many (int) or this fraction (float) of the training batches.
        limit_val_batches: The same for validation.
        limit_test_batches: The same for testing.
        limit_predict_batches: The same for prediction.
        overfit_batches: Train and validate on this many (int) or this fraction (float) of batches.
        val_check_interval: Validate after this many batches (int), this fraction of the epoch
            (float), or this time (as in `max_time`).
        check_val_every_n_epoch: Validate every this many epochs; None to count batches only.
        num_sanity_val_steps: Validation batches to run before training; -1 for all.
        log_every_n_steps: Log every this many steps; Lightning's 50 if None.
        enable_checkpointing: Whether to save checkpoints; if None, yes unless `barebones`.
        enable_progress_bar: Whether to show progress; if None, yes unless `barebones`.
        enable_model_summary: Whether to print the layers; if None, yes unless `barebones`.
        accumulate_grad_batches: Batches per optimizer step.
        gradient_clip_val: Clip gradients at this value; if None, as the policy decides.
        gradient_clip_algorithm: "norm" or "value".
        deterministic: Whether to allow deterministic algorithms only; "warn" to be told instead.
        benchmark: Value for `torch.backends.cudnn.benchmark`.
        inference_mode: Whether evaluation uses `torch.inference_mode` rather than `no_grad`.
        use_distributed_sampler: Whether each rank gets its own share of the data.
        profiler: "simple", "advanced", "pytorch", or a `Profiler`.
        detect_anomaly: Whether autograd looks for NaN.
        barebones: Whether to switch off everything that costs speed, to measure overhead.
        plugins: Precision, checkpoint or cluster-environment plugins.
        sync_batchnorm: Whether batch statistics are shared between ranks.
        reload_dataloaders_every_n_epochs: Rebuild the dataloaders every this many epochs; 0: never.
        default_root_dir: Local path or URL (s3://...) under which output goes. None for the
            current directory, as in Lightning.
        enable_autolog_hparams: Whether to log hyper-parameters when a run starts.
        model_registry: Name under which the model is uploaded to a model hub.

    Raises:
        ValueError: If `experiment_name` is no plain name, if `devices` or `num_nodes` contradict
            torchrun or srun, if Lightning's requeueing left a checkpoint in `default_root_dir`, or
            if that is a URL whose bucket is not there.
        MisconfigurationException: From Lightning, for arguments that it refuses.
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
        arguments = dict(locals())  # all of them, so that none is forgotten on the way to Lightning
        del arguments["self"], arguments["experiment_name"]

        self._run_directory = os.environ.get("GETIACTION_RUN_DIR")
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
            # First: in their own `setup` the others may look for the policy's parameters.
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

        if self._run_directory:
            for checkpoint in self.checkpoint_callbacks:
                if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath is None:
                    checkpoint.dirpath = os.path.join(root, "checkpoints")  # noqa: PTH118 - as above

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
        """Directory of this run: `GETIACTION_RUN_DIR` where set, else as in Lightning."""
        return self.default_root_dir if self._run_directory else super().log_dir

    def _refuse_stray_checkpoint(self) -> None:
        """Refuse what Lightning would resume without being asked, whichever run it is of."""
        stray = requeue_checkpoint(self)
        if stray and SLURMEnvironment.detect():
            msg = (
                f"{stray} was left by Lightning's requeueing of some run, and under SLURM Lightning"
                " would go on from it in this one.\nMove it out of default_root_dir:"
                f" mv {stray} {stray}.old\nTo go on from it, pass that path to fit(ckpt_path=...)"
            )
            raise ValueError(msg)


def _check_experiment_name(name: str) -> None:
    if not name.strip() or name in {".", ".."} or "/" in name or "\\" in name:
        msg = (
            f"experiment_name={name!r} is not a plain name: it names one folder in"
            " default_root_dir.\nGive the folders above it to default_root_dir:"
            " Trainer(default_root_dir='experiments/aloha', experiment_name='act_v1')"
        )
        raise ValueError(msg)
