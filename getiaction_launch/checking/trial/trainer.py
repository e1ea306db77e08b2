"""The Trainers of a trial: epochs of two batches on the CPU, which save and print nothing.

Whatever the user's classes ask of it, such as the number of steps for a schedule, it answers as the
run's own Trainer would.
"""

import sys
from collections.abc import Callable
from typing import Any

from getiaction_launch.checking.apart.where import shown
from getiaction_launch.checking.built import Built
from getiaction_launch.checking.frames import is_own
from getiaction_launch.checking.lightning_seams import ddp_options
from getiaction_launch.checking.loggers.stand_ins import quiet_loggers

TRIAL_BATCHES = 2
"""Some faults show in the second batch only, as a graph that is kept from the first one."""
TRIAL_EPOCHS = 2
"""Some faults show in the second epoch only, as weights that are frozen from then on."""
_SOME_STEPS = 1000
"""Steps of a run whose loader has no length."""
_ON_CPU: dict[str, Any] = {
    "bf16-mixed": "bf16-mixed",
    "bf16-true": "bf16-true",
    "16-mixed": "bf16-mixed",
    "64-true": "64-true",
}
"""The precision of a trial for that of a run, where weights or inputs may have another type."""


def trial_trainer(
    built: Built,
    steps: Callable[[], int | None],
    callback: Any,  # noqa: ANN401 - Lightning's
    *,
    is_one_of_two: bool = False,
    note_stop: Callable[[str], object] = str,
    most_batches: int = TRIAL_BATCHES,
) -> Any:  # noqa: ANN401 - as above
    """Return a Trainer for two epochs of a few batches of training and of validation.

    Args:
        built: What the spec names.
        steps: Function that returns the optimizer steps of the whole run; None if unknown.
        callback: A callback that takes part besides those of the spec.
        is_one_of_two: Whether it trains with another rank, in a process group of two.
        note_stop: Function to call with the line of the user's that has training end.
        most_batches: Most batches of training, and of validation, in an epoch.
    """
    import lightning.pytorch as lightning

    class Whole(lightning.Trainer):
        max_epochs = property(lambda _: built.trainer.max_epochs)
        max_steps = property(lambda _: built.trainer.max_steps)
        early_stopping_callbacks = property(lambda _: built.trainer.early_stopping_callbacks)

        @property
        def should_stop(self) -> bool:
            return bool(vars(self).get("_is_over"))

        @should_stop.setter
        def should_stop(self, value: bool) -> None:
            vars(self)["_is_over"] = value
            setter = sys._getframe(1)  # noqa: SLF001 - nothing has been raised
            if value and is_own(setter.f_code.co_filename):
                note_stop(shown((setter.f_code.co_filename, setter.f_lineno)))

        @property
        def estimated_stepping_batches(self) -> int:
            _ = super().estimated_stepping_batches  # has the loaders made, which are counted then
            return steps() or _SOME_STEPS

    arguments = built.arguments
    sanity = arguments.get("num_sanity_val_steps")
    is_sane = sanity == 0 or bool(arguments.get("fast_dev_run"))
    return Whole(
        accelerator="cpu",
        devices=1,
        **(_of_two(built) if is_one_of_two else _of_one()),
        max_epochs=TRIAL_EPOCHS,
        max_steps=int(arguments.get("max_steps") or -1),
        limit_train_batches=most_batches,
        limit_val_batches=_at_most(most_batches, arguments.get("limit_val_batches")),
        num_sanity_val_steps=0 if is_sane else TRIAL_BATCHES,
        accumulate_grad_batches=arguments.get("accumulate_grad_batches") or 1,
        log_every_n_steps=1,
        logger=quiet_loggers(built) or False,
        callbacks=[*_callbacks(built), callback],
        enable_checkpointing=built.trainer.checkpoint_callback is not None,
        default_root_dir=str(built.scratch),
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=arguments.get("gradient_clip_val"),
        gradient_clip_algorithm=arguments.get("gradient_clip_algorithm"),
        deterministic=arguments.get("deterministic"),
        precision=_ON_CPU.get(str(arguments.get("precision"))),
    )


def _at_most(batches: int, limit: object) -> int:
    return min(batches, limit) if type(limit) is int and limit else batches


def _of_one() -> dict[str, Any]:
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    # The environment has all ranks of the run.
    return {"num_nodes": 1, "plugins": LightningEnvironment()}


def _of_two(built: Built) -> dict[str, Any]:
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    return {
        "num_nodes": 2,
        "plugins": TorchElasticEnvironment(),
        "strategy": DDPStrategy(
            process_group_backend="gloo", **ddp_options(built.trainer.strategy)
        ),
        "use_distributed_sampler": built.arguments.get("use_distributed_sampler", True),
    }


def _callbacks(built: Built) -> list[Any]:
    """Return the callbacks that take part: none that saves, stops, or prints."""
    from lightning.pytorch import callbacks as of_lightning

    left_out = (
        of_lightning.Checkpoint,
        of_lightning.EarlyStopping,
        of_lightning.ProgressBar,
        of_lightning.ModelSummary,
        of_lightning.StochasticWeightAveraging,
        of_lightning.Timer,
        of_lightning.BatchSizeFinder,
        of_lightning.LearningRateFinder,
    )
    kept = [each for each in built.trainer.callbacks if not isinstance(each, left_out)]
    if built.trainer.checkpoint_callback is not None:  # a program may ask it for the best one
        kept.append(of_lightning.ModelCheckpoint(str(built.scratch), save_top_k=0))
    return [each for each in kept if type(each).__name__ != "SaveConfigCallback"]
