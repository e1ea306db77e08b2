"""Resumes in the middle of an epoch with another number of ranks than the one that saved.

Each rank has read as many batches as the others, so what they have read together depends on their
number, and the loop's count of batches does not fit any more. A loader of the user's that knows
better has, besides its state, an attribute ``batches_read``: how many batches of this epoch count
as read once it has loaded that state. Then each sample of the epoch is read once.
"""

from lightning.pytorch import Trainer

from getiaction_launch.worker.fitting.lightning_seams import set_batches, training_loaders

POSITION = "batches_read"
"""Attribute of a training loader whose state another number of ranks can continue."""


def continue_epoch(trainer: Trainer, ranks: int, batches: int) -> str:
    """Count the batches of the interrupted epoch as this number of ranks would.

    Args:
        trainer: The Trainer, whose loaders are set up and have loaded their states.
        ranks: How many ranks have saved the checkpoint.
        batches: How many batches of the epoch each of them had read; not 0.

    Returns:
        What the rest of the epoch consists of, in a sentence for people.
    """
    if follow_positions(trainer, batches):
        return "the rest of this epoch has exactly the samples that no rank has read yet."
    read = batches * ranks // trainer.world_size
    set_batches(trainer, int(min(read, trainer.num_training_batches)))
    return (
        "the data loader does not say which samples are left for another number of ranks, so the "
        "rest of this epoch reads some samples again and leaves others out; the next epoch is "
        "whole."
    )


def follow_positions(trainer: Trainer, batches: int) -> bool:
    """Count as many batches as the loaders say, which may have another batch size by now.

    Args:
        trainer: The Trainer, whose loaders are set up and have loaded their states.
        batches: How many batches the loop counts.

    Returns:
        Whether all training loaders say how many batches count as read.
    """
    loaders = training_loaders(trainer)
    if not loaders or not all(hasattr(loader, POSITION) for loader in loaders):
        return False
    read = max(int(getattr(loader, POSITION)) for loader in loaders)
    if read != batches:
        set_batches(trainer, int(min(read, trainer.num_training_batches)))
    return True
