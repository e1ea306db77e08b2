"""Which callbacks of the launcher belong to a Trainer: one of each kind, made for it alone.

Lists of callbacks are shared and copied by users' programs, and Trainers are copied and unpickled;
a callback that served two Trainers would mix up their states.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint

from getiaction_launch.errors import CheckError


def own_interruption(
    trainer: Trainer,
    kinds: tuple[type[Callback], ...],
    make: Callable[[], Sequence[Callback]],
) -> Any:  # noqa: ANN401 - of the first kind
    """Find the launcher's callback of a Trainer, and give it new ones if it has not its own.

    Args:
        trainer: The Trainer whose callbacks are looked at.
        kinds: The classes of the launcher's callbacks, in the order in which ``make`` returns them.
            The first one has a method ``claim``.
        make: Makes new callbacks of these classes.
    """
    untyped: Any = trainer  # its callbacks are set in another module
    found: list[Any] = [each for each in untyped.callbacks if isinstance(each, kinds)]
    if [type(each) for each in found] == list(kinds) and found[0].claim(trainer):
        return found[0]
    made: list[Any] = list(make())
    made[0].claim(trainer)
    users = [each for each in untyped.callbacks if not isinstance(each, kinds)]
    # Lightning runs checkpoint callbacks last.
    place = next((n for n, each in enumerate(users) if isinstance(each, Checkpoint)), len(users))
    untyped.callbacks = [*users[:place], *made, *users[place:]]
    return made[0]


@contextlib.contextmanager
def without(trainer: Trainer, kinds: tuple[type[Callback], ...]) -> Iterator[None]:
    """Fit without the launcher's callbacks, in processes that the strategy starts.

    Raises:
        CheckError: If the launcher has started one process for each device, as it always does.
    """
    if TorchElasticEnvironment.detect():
        strategy: Any = trainer.strategy
        raise CheckError(
            f"the strategy {type(strategy).__name__} with "
            f"start_method={getattr(strategy, '_start_method', 'spawn')!r} starts processes of its "
            "own, and getiaction-launch has started one for each device already.",
            "Use the strategy 'ddp' instead: strategy: ddp, or Trainer(strategy='ddp')",
        )
    untyped: Any = trainer
    kept = untyped.callbacks
    untyped.callbacks = [each for each in kept if not isinstance(each, kinds)]
    try:
        yield
    finally:
        untyped.callbacks = kept
