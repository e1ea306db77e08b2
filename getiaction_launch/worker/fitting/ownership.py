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
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.rehearsal.orders import own_orders
from getiaction_launch.run.run import Run
from getiaction_launch.worker.assignment import own_run


class OwnCallback(Callback):
    """A callback of the launcher, which serves one Trainer of one process.

    Args:
        run: The run that this worker belongs to.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def __reduce__(self) -> tuple[Any, ...]:
        """Become a callback without effect where it is unpickled, which needs no launcher."""
        return Callback, ()

    def __deepcopy__(self, memo: dict[int, object]) -> "OwnCallback":
        """Serve a copy of the Trainer with nothing of this Trainer's state."""
        return type(self)(self._run)


@contextlib.contextmanager
def own_callbacks(
    trainer: Trainer,
    kinds: tuple[type[OwnCallback], ...],
    make: Callable[[], Sequence[OwnCallback]],
) -> Iterator[Any]:
    """Give a Trainer the launcher's callbacks for one fit: its own ones, and each kind once.

    Args:
        trainer: The Trainer that is about to fit.
        kinds: The classes of the launcher's callbacks, in their order.
        make: Makes those that Lightning adds to each Trainer, which are of the first kinds. The
            others are there during a fit only. The first one has a method ``claim``.

    Yields:
        The first one.

    Raises:
        CheckError: If each of several workers would train alone, on all data.
    """
    run = own_run()
    _check_company(trainer, Plan.of(run).topology.world_size)
    kinds = (*kinds, *_kinds_of_a_drill())
    untyped: Any = trainer  # its callbacks are set in another module
    own: list[Any] = [each for each in untyped.callbacks if isinstance(each, kinds)]
    are_known = [type(each) for each in own] == list(kinds[: len(own)])
    if not (own and are_known and own[0].claim(trainer)):
        own = list(make())
        own[0].claim(trainer)
    others = kinds[len(own) :]
    users = [each for each in untyped.callbacks if not isinstance(each, kinds)]
    untyped.callbacks = before_checkpoints(users, [*own, *(kind(run) for kind in others)])
    try:
        yield own[0]
    finally:
        untyped.callbacks = [each for each in untyped.callbacks if not isinstance(each, others)]


def before_checkpoints(users: Sequence[Callback], added: Sequence[Callback]) -> list[Callback]:
    """Add callbacks behind the user's own: Lightning runs those that save checkpoints last.

    Args:
        users: The callbacks of a Trainer, in their order.
        added: The callbacks to add.
    """
    place = next((n for n, each in enumerate(users) if isinstance(each, Checkpoint)), len(users))
    return [*users[:place], *added, *users[place:]]


def _check_company(trainer: Trainer, world_size: int) -> None:
    """Check that a Trainer does not train alone where others train beside it."""
    if trainer.world_size == 1 < world_size:
        raise CheckError(
            f"this Trainer trains alone (num_nodes=1, devices=1), and so would each of the "
            f"{world_size} workers of the run, on all data and into the same files.",
            "Leave out num_nodes and devices, which then follow the launch, and set neither "
            "WORLD_SIZE nor another strategy than ddp in the script. Several trainings of one "
            "worker each are a sweep: getiaction-launch --sweep lr=0.1,0.01 train.py",
        )


def _kinds_of_a_drill() -> tuple[type[OwnCallback], ...]:
    if own_orders() is None:
        return ()
    from getiaction_launch.worker.rehearsal.rehearsal import Rehearsal  # imports this module

    return (Rehearsal,)


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
