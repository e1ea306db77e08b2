"""What only one rank knows of the training, for the checkpoint that rank 0 writes for all."""

from typing import Any

import torch
from lightning.pytorch import Trainer

from getiaction_launch.worker.fitting.epoch import Epoch
from getiaction_launch.worker.fitting.random_state import random_state
from getiaction_launch.worker.lightning_seams import LightningState, fit_loop_state
from getiaction_launch.worker.progress import STATE_KEY, say
from getiaction_launch.worker.saving.lightning_seams import writes_one_file


def gather_rank_states(trainer: Trainer, checkpoint: LightningState, epoch: Epoch) -> None:
    """Add to a checkpoint what each rank needs to resume; must run on all ranks.

    Lightning saves the loaders of rank 0 only, and no random numbers. The states of all ranks are
    in the checkpoint of each rank that writes one; any other rank has only its own.

    Args:
        trainer: The Trainer whose state is saved.
        checkpoint: The content of the checkpoint, which Lightning has collected.
        epoch: What decides the order of the current epoch.

    Raises:
        Exception: On all ranks, if one of them cannot read the state of another; or from a
            collective, if a rank is gone.
    """
    metrics = trainer.callback_metrics  # plateau schedulers and early stopping read them
    own = {
        "random": random_state(trainer.strategy.root_device),
        "loaders": epoch.loader_states() or fit_loop_state(checkpoint).get("combined_loader", []),
        "epoch": epoch.state(),
        "metrics": {name: value.detach().cpu().clone() for name, value in metrics.items()},
        "should_stop": trainer.should_stop,
    }
    ranks: list[Any] = [own]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        ranks = _gathered(own, trainer)
    checkpoint[STATE_KEY] = {"ranks": ranks}


def _gathered(own: LightningState, trainer: Trainer) -> list[Any]:
    ranks: list[Any] = [None] * trainer.world_size
    failure: Exception | None = None
    try:
        if not writes_one_file(trainer.strategy):
            # Each rank may write a part of the checkpoint, and this with it.
            torch.distributed.all_gather_object(ranks, own)
        else:
            # Not to all: that would be as many times as much, of which all but one are dropped.
            is_first = torch.distributed.get_rank() == 0
            torch.distributed.gather_object(own, ranks if is_first else None)
            ranks = ranks if is_first else [own]
    except Exception as error:  # noqa: BLE001 - the user's objects may raise anything
        failure = error
    # All or none: else the others wait in later collectives, which this rank does not join.
    if not trainer.strategy.reduce_boolean_decision(failure is None):
        raise failure or RuntimeError("another rank could not read the states of all ranks")
    return ranks


def own_rank_state(trainer: Trainer, checkpoint: LightningState) -> LightningState:
    """Take what this rank added to a checkpoint, and put its loaders where Lightning looks.

    Returns:
        The keys ``random``, ``metrics``, ``should_stop``, ``epoch`` and ``logged_steps``; an empty
        mapping for a checkpoint that the launcher did not save. If another number of ranks has
        saved it, that number is ``other_ranks``.
    """
    if STATE_KEY not in checkpoint:
        return {}
    ranks: list[LightningState] = checkpoint[STATE_KEY]["ranks"]
    shared = {"logged_steps": checkpoint[STATE_KEY].get("logged_steps")}
    if len(ranks) == trainer.world_size:
        own = ranks[trainer.global_rank]
        fit_loop_state(checkpoint)["combined_loader"] = own["loaders"]
        return own | shared
    if trainer.is_global_zero:
        say(
            f"the checkpoint was saved by {len(ranks)} ranks, and training resumes with "
            f"{trainer.world_size}: results will differ from those of an uninterrupted run."
        )
    return {**ranks[0], **shared, "random": None, "other_ranks": len(ranks)}
