"""Errors that Lightning and torch raise in a step, where they say what a program does wrong."""

import re
import traceback

KNOWN = (
    (
        "Expected more than 1 value per channel",
        "data",
        "Set drop_last=True, or another batch size: the last batch of an epoch has one sample",
    ),
    (
        "backward through the graph a second time",
        "model",
        "Detach what training_step keeps of one batch for the next one: .detach()",
    ),
    (
        "does not require grad",
        "model",
        "The loss must depend on weights with requires_grad=True: see what freezes or detaches",
    ),
    (
        "created only for scalar outputs",
        "model",
        "Return one number from training_step: loss.mean()",
    ),
    (
        "same dtype, but got Double and Float",
        "data",
        "Give data and weights one type: tensor.float() where the data is read",
    ),
    (
        "No `configure_optimizers()` method defined",
        "model",
        "Define configure_optimizers, in this spelling: Lightning calls no other method",
    ),
    (
        "`train_dataloader` must be implemented",
        "data",
        "Name the data: --data=getiaction.data.LeRobotDataModule --data.root=DIRECTORY",
    ),
    (
        "more than one stateful callback",
        "trainer.callbacks",
        "Remove one of them, or have them differ in monitor, mode or every_n_epochs",
    ),
)
"""Words of Lightning's messages that name no key, with the key and what to do."""
_RAISES = re.compile(r"/(lightning/pytorch|pytorch_lightning)/(core|loops|trainer)/")
"""Where Lightning looks whether a program does what it asks of one, on every device alike."""


def is_of_lightning(error: BaseException) -> bool:
    """Return whether Lightning itself has raised an error, about what a program does.

    Args:
        error: The exception that a trial has raised.
    """
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    return any(_RAISES.search(frame.filename) for frame in frames)
