"""Every place where a drill depends on Lightning's internals.

As in :mod:`getiaction_launch.worker.lightning_seams`, each function says why Lightning's public
interface is not enough, and has a test in ``tests/unit/test_rehearsal.py``.
"""

from typing import Any

from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Trainer

VALIDATION_BATCHES = 2


def shorten(trainer: Trainer, most_steps: int) -> None:
    """Have each epoch of a fit take half of the steps, and end with a short validation.

    Called before the loaders are set up, which read these limits. They are public arguments of the
    Trainer and public attributes, but that they may be written is undocumented.

    Args:
        trainer: The Trainer that is about to fit.
        most_steps: Length of the fit in steps, as far as its epochs allow.
    """
    untyped: Any = trainer
    most = max(1, most_steps // 2)
    if untyped.overfit_batches:
        return  # it replaces both limits
    untyped.limit_train_batches = _fewer(trainer.limit_train_batches, most)
    untyped.limit_val_batches = _fewer(trainer.limit_val_batches, VALIDATION_BATCHES)
    if isinstance(trainer.val_check_interval, int):
        untyped.val_check_interval = min(trainer.val_check_interval, most)
    if trainer.check_val_every_n_epoch is not None:
        untyped.check_val_every_n_epoch = 1


def _fewer(limit: float, most: int) -> int:
    return min(limit, most) if isinstance(limit, int) else most * (limit > 0)


def end_early(trainer: Trainer, most_steps: int) -> None:
    """Have a fit end after as many epochs as there are steps for, and two at least.

    Called when training starts: schedulers have been given the length of the whole training by
    then. Only the loop's own limit can be written.

    Args:
        trainer: The Trainer whose loaders are set up.
        most_steps: Length of the fit in steps, as far as its epochs allow.
    """
    epochs = max(2, most_steps // max(1, int(trainer.num_training_batches)))
    loop = trainer.fit_loop
    loop.max_epochs = epochs if loop.max_epochs in (None, -1) else min(loop.max_epochs, epochs)


def users_sampler(sampler: object) -> object:
    """Return the user's own sampler of one that Lightning has wrapped to divide it among ranks.

    Only a private attribute of what the wrapper holds leads to it.

    Args:
        sampler: The sampler of a loader.
    """
    if isinstance(sampler, DistributedSamplerWrapper):
        return getattr(sampler.dataset, "_sampler", sampler)
    return sampler


def epoch_means(trainer: Trainer) -> set[str]:
    """Return the names of the values that the training step logs as means over the epoch.

    They are not in a checkpoint: those of an epoch that was interrupted cover its later part. Only
    the private results know how a value was logged.
    """
    results: Any = trainer.fit_loop.epoch_loop._results  # noqa: SLF001
    metas = (metric.meta for metric in results.values())
    return {meta.forked_name(on_step=False) for meta in metas if meta.on_epoch}
