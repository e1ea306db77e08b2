"""Every place where resuming depends on Lightning's internals.

As in :mod:`getiaction_launch.worker.lightning_seams`, each function says why Lightning's public
interface is not enough, and has a test in ``tests/unit/test_fitting_seams.py``.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.loops.fetchers import _DataLoaderIterDataFetcher, _PrefetchDataFetcher
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from getiaction_launch.worker.heart import during
from getiaction_launch.worker.lightning_seams import Replaced, watching_fetches


def is_tuning(trainer: Trainer) -> bool:
    """Whether a fit only searches a learning rate or batch size, for a ``Tuner``.

    The Tuner calls ``Trainer.fit`` with a callback that ends it early, which only a private
    attribute shows.
    """
    finders = (BatchSizeFinder, LearningRateFinder)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set elsewhere
    return any(getattr(c, "_early_exit", False) for c in callbacks if isinstance(c, finders))


def starts_processes(trainer: Trainer) -> bool:
    """Whether a strategy trains in processes that it spawns or forks; the class is private."""
    return isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


@contextlib.contextmanager
def around_training(trainer: Trainer, run: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Call ``run`` with what a fit does between its set-up and its teardown.

    No hook comes after every ``on_train_end`` while the strategy still works, and none can prevent
    training after everything has been restored.
    """
    original: Any = trainer._run_stage  # noqa: SLF001
    with Replaced.replacing(trainer, "_run_stage", lambda: run(original)):
        yield


def forget_restart(trainer: Trainer) -> None:
    """Let the next fit of a Trainer begin as after one that has trained, not as a restart."""
    loop = trainer.fit_loop
    loop.restarting = False
    loop._restarting = False  # noqa: SLF001 - with max_steps the setter sets it again
    loop.on_iteration_done()
    loop.epoch_loop.on_iteration_done()


def batches_of_epoch(trainer: Trainer) -> int:
    """Return how many batches of the current epoch have begun; public is only their last index."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def makes_iterator(trainer: Trainer) -> bool:
    """Whether the epoch that begins makes a new iterator; Lightning decides so privately.

    Otherwise the one from the set-up of the loaders is used.
    """
    loop = trainer.fit_loop
    return trainer.current_epoch > 0 and not (loop.is_resuming or loop.epoch_loop.restarting)


def training_loaders(trainer: Trainer) -> list[Any]:
    """Return the loaders of the fit; the public property has them in the user's own structure."""
    combined = trainer.fit_loop._combined_loader  # noqa: SLF001
    return [] if combined is None else list(combined.flattened)  # it may have no length


def loader_states(trainer: Trainer) -> list[Any]:
    """Return what a checkpoint would hold of the loaders; only the loop's state has it."""
    combined = trainer.fit_loop._combined_loader  # noqa: SLF001
    return [] if combined is None else combined._state_dicts()  # noqa: SLF001


def load_left_states(trainer: Trainer) -> None:
    """Give the loaders their states if they were set up before Lightning had read them.

    This is so if ``configure_optimizers`` asks for ``estimated_stepping_batches``. The iterator
    that was made then is replaced.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load and loop.restarting:  # noqa: SLF001
        loop._load_combined_loader_states()  # noqa: SLF001
        iter(loop._data_fetcher)  # type: ignore[arg-type] # noqa: SLF001 - made with the loaders


def reads_ahead(trainer: Trainer) -> bool:
    """Whether the loop has read a batch more than it has begun, as it does without a length."""
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001
    return isinstance(fetcher, _PrefetchDataFetcher) and fetcher.length is None


def has_read_nothing(trainer: Trainer) -> bool:
    """Whether the first batch of an epoch is being read ahead, before the epoch's loop begins."""
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001
    return reads_ahead(trainer) and fetcher is not None and fetcher.fetched == 0


def takes_batches_itself(trainer: Trainer) -> bool:
    """Whether ``training_step`` reads from the loader, with its parameter ``dataloader_iter``."""
    return isinstance(trainer.fit_loop._data_fetcher, _DataLoaderIterDataFetcher)  # noqa: SLF001


def batches_read(trainer: Trainer) -> int:
    """Return how many batches of the current epoch were read to be trained on."""
    fetcher: Any = trainer.fit_loop._data_fetcher  # noqa: SLF001
    count: int = fetcher.fetched if takes_batches_itself(trainer) else batches_of_epoch(trainer)
    return count


def take_batches(trainer: Trainer, number: int) -> None:
    """Read batches without training on them, and let the loop count each one once."""
    fetcher: Any = trainer.fit_loop._data_fetcher  # noqa: SLF001
    batches = fetcher.iterator_wrapper if takes_batches_itself(trainer) else fetcher
    for _ in range(number):
        if next(batches, None) is None:
            break
    fetcher.fetched -= batches_of_epoch(trainer)  # the epoch's loop adds them


def count_batches(trainer: Trainer, number: int) -> None:
    """Count batches that the loader has left out, where the loop counts what is read."""
    fetcher = trainer.fit_loop._data_fetcher  # noqa: SLF001
    if isinstance(fetcher, _DataLoaderIterDataFetcher):
        fetcher.fetched = number - batches_of_epoch(trainer)


def set_batches(trainer: Trainer, number: int) -> None:
    """Let the loop continue as after so many batches of the current epoch.

    Nothing public sets it; what is counted over all epochs stays.
    """
    current: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    current.ready = current.started = current.processed = current.completed = number


@contextlib.contextmanager
def watching_steps(
    trainer: Trainer, before_step: Callable[[], None], before_epoch: Callable[[], object]
) -> Iterator[None]:
    """Call ``before_step`` where the batch of the next step is fetched, or where that step begins.

    The latter if ``training_step`` reads from the loader itself: then a fetch is in the middle of
    a step, and no hook comes before it.

    Before each step Lightning broadcasts from rank 0 whether it has received SIGTERM. If rank 0 is
    slow, the others wait there, and are not slow themselves.
    """
    loop = trainer.fit_loop.epoch_loop
    broadcast = during("waiting")(loop._broadcast_sigterm_tensor)  # noqa: SLF001
    with (
        Replaced.replacing(loop, "_broadcast_sigterm_tensor", broadcast),
        _watching_boundaries(trainer, before_step, before_epoch),
    ):
        yield


@contextlib.contextmanager
def _watching_boundaries(
    trainer: Trainer, before_step: Callable[[], None], before_epoch: Callable[[], object]
) -> Iterator[None]:
    if not takes_batches_itself(trainer):
        with watching_fetches(trainer, before_step, before_epoch):
            yield
        return
    loop = trainer.fit_loop.epoch_loop
    advance = loop.advance

    def begin_step(*args: Any) -> None:  # noqa: ANN401 - as in Lightning
        before_step()
        advance(*args)

    with (
        Replaced.replacing(loop, "advance", begin_step),
        watching_fetches(trainer, lambda: None, before_epoch),
    ):
        yield


def save_quietly(trainer: Trainer, path: Path, storage_options: object) -> None:
    """Save as ``Trainer.save_checkpoint`` does, which programs replace to count their own saves."""
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)  # noqa: SLF001
    trainer.strategy.save_checkpoint(checkpoint, path, storage_options=storage_options)
    trainer.strategy.barrier("Trainer.save_checkpoint")
