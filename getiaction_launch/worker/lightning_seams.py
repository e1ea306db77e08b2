"""Every place where the launcher reaches into Lightning's insides, in one file.

Each function or class here says why Lightning offers no public door for it, and has a test of its
own in ``tests/unit/test_lightning_seams.py`` that fails when Lightning changes underneath. To
support a new version of Lightning, begin with that test file.
"""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy

FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""What Lightning's training loop calls the profiler with, right before it fetches a batch."""


@functools.cache
def watch_fits(watch: Callable[[Trainer, int], AbstractContextManager[dict[str, Any]]]) -> None:
    """Run every ``Trainer.fit`` of this process inside a context, which may change its arguments.

    The class is patched because the checkpoint to resume from is an argument of ``fit``, which a
    user's script calls, and no hook of a callback runs before ``fit`` has chosen it.

    Args:
        watch: Called with the Trainer and the number of the fit in this process, from 0; its
            context yields the arguments to replace, by name.
    """
    original = Trainer.fit
    numbers = itertools.count()

    @functools.wraps(original)
    def fit(self: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in Trainer.fit
        number = next(numbers)
        call = inspect.signature(original).bind(self, *args, **kwargs)
        with watch(self, number) as replaced:
            call.arguments.update(replaced)
            original(*call.args, **call.kwargs)

    Trainer.fit = fit  # type: ignore[method-assign]


@contextlib.contextmanager
def preparing_loaders(strategy: Strategy, prepare: Callable[[object], None]) -> Iterator[None]:
    """Call ``prepare`` with every data loader of a fit before its first iterator is made.

    The strategy's method is replaced because Lightning has no hook between the moment a loader has
    its final sampler and the moment its worker processes start.
    """
    process = strategy.process_dataloader

    def process_dataloader(dataloader: object) -> object:
        loader = process(dataloader)
        prepare(loader)
        return loader

    strategy.process_dataloader = process_dataloader  # type: ignore[method-assign]
    try:
        yield
    finally:
        del strategy.process_dataloader


class FetchWatch(Profiler):
    """Calls a function right before each training batch is fetched, and is the user's profiler.

    At that moment every hook of the previous step and its validation are over, and no callback
    hook runs there: ``on_train_batch_start`` comes after the fetch. Lightning only tells its
    profiler.

    Args:
        profiler: The user's own profiler, which everything is passed on to.
        before_fetch: The function to call.
    """

    def __init__(self, profiler: Profiler, before_fetch: Callable[[], None]) -> None:
        # Not the base's constructor: its attributes are looked up in the user's profiler.
        self._profiler, self._before_fetch = profiler, before_fetch

    def start(self, action_name: str) -> None:
        """Call the function if a training batch is about to be fetched."""
        if action_name == FETCH:
            self._before_fetch()
        self._profiler.start(action_name)

    def stop(self, action_name: str) -> None:
        """Pass it on."""
        self._profiler.stop(action_name)

    def profile(self, action_name: str) -> Any:  # noqa: ANN401 - the base's type is private
        """Pass it on, since a profiler may override this as well."""
        return self._profiler.profile(action_name)

    def summary(self) -> str:
        """Pass it on."""
        return self._profiler.summary()

    def describe(self) -> None:
        """Pass it on."""
        self._profiler.describe()

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Pass it on."""
        self._profiler.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        """Pass it on."""
        self._profiler.teardown(stage)

    @property
    def local_rank(self) -> int:
        """The rank on this node that the user's profiler has been told."""
        return self._profiler.local_rank

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the profiler has
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._profiler, name)

    def __del__(self) -> None:
        """Leave the user's profiler open: the base would tear it down."""


@contextlib.contextmanager
def watching_fetches(trainer: Trainer, before_fetch: Callable[[], None]) -> Iterator[None]:
    """Call ``before_fetch`` right before each training batch is fetched; see :class:`FetchWatch`.

    ``Trainer.profiler`` is public, but Lightning sets it from another module, so it has no type.
    """
    untyped: Any = trainer
    users = untyped.profiler
    untyped.profiler = FetchWatch(users, before_fetch)
    try:
        yield
    finally:
        untyped.profiler = users


def finish_restarting(trainer: Trainer) -> None:
    """Let Lightning forget that it resumed in the middle of an epoch.

    Else it would not step this epoch's ReduceLROnPlateau. The attribute is private; its public
    setter would also reset the inner loops, which still need to know.
    """
    trainer.fit_loop._restarting = False  # noqa: SLF001


def restore_outcome(trainer: Trainer, metrics: dict[str, Any], *, should_stop: bool) -> None:
    """Give a Trainer the metrics and the request to stop that Lightning does not save.

    Plateau schedulers and early stopping read ``callback_metrics`` before anything is logged in
    the resumed epoch. Both names are public, but writing to them is undocumented.
    """
    trainer.should_stop = should_stop
    trainer.callback_metrics.update(metrics)


def is_between_steps(trainer: Trainer) -> bool:
    """Whether no gradients wait for further batches, and no batch is being trained on.

    Public properties count steps and batches, but not batches that have begun and not ended.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress.current
    is_idle = batches.ready == batches.completed
    return is_idle and batches.completed % trainer.accumulate_grad_batches == 0


def fit_loop_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Find where a checkpoint holds the fit loop's state, with ``combined_loader`` in it.

    That layout is Lightning's own. Lightning fills it with the loaders of rank 0, while each rank
    needs those of its own.
    """
    state: dict[str, Any] = checkpoint["loops"]["fit_loop"]["state_dict"]
    return state


def writes_one_file(strategy: Strategy) -> bool:
    """Whether rank 0 alone writes what all ranks have, into one file.

    A sharded strategy does not say so, but it has a ``save_checkpoint`` of its own.
    """
    return type(strategy).save_checkpoint is Strategy.save_checkpoint


@contextlib.contextmanager
def looking_ahead(
    callback: ModelCheckpoint,
    exists: Callable[[str | Path], bool | None],
    link: Callable[[Path, Path], None],
) -> Iterator[None]:
    """Have a ModelCheckpoint see files as they will be, although they are still being written.

    It chooses names and makes its link by looking at the file system itself, without asking its
    ``CheckpointIO``. A subclass's own versions of these methods stay.

    Args:
        callback: The user's ModelCheckpoint; its class is left as it is.
        exists: Whether a file will exist, or None if only the callback's file system knows.
        link: Makes a link, the second path, to the checkpoint at the first path.
    """

    def file_exists(filepath: str | Path, trainer: Trainer) -> bool:
        known = exists(filepath)
        is_there = callback._fs.exists(filepath) if known is None else known  # noqa: SLF001
        return trainer.strategy.reduce_boolean_decision(is_there, all=False)

    def link_checkpoint(trainer: Trainer, filepath: str, linkpath: str) -> None:
        link(Path(filepath), Path(linkpath))
        trainer.strategy.barrier()

    for name, ahead in {"file_exists": file_exists, "_link_checkpoint": link_checkpoint}.items():
        if getattr(type(callback), name) is getattr(ModelCheckpoint, name):
            setattr(callback, name, ahead)
    try:
        yield
    finally:
        for name in ("file_exists", "_link_checkpoint"):
            vars(callback).pop(name, None)


def keeps_account_of(callback: ModelCheckpoint, path: Path) -> bool:
    """Whether a file is one that a plain ModelCheckpoint has just decided to save.

    It sets its public paths before it saves; that it does nothing else with the file can only be
    seen from its private method not being overridden.
    """
    is_plain = type(callback)._save_checkpoint is ModelCheckpoint._save_checkpoint  # noqa: SLF001
    paths = {callback.best_model_path, callback.last_model_path, *callback.best_k_models}
    return is_plain and str(path) in paths


def reads_checkpoints_at_once(logger: Logger) -> bool:
    """Whether a logger may read a checkpoint file in ``after_save_checkpoint``.

    Loggers do not say so. Those of Lightning that upload checkpoints have the private attribute
    ``_log_model``: with ``"all"`` they upload each at once, with a boolean at the end or what they
    find.
    """
    does_nothing = (Logger.after_save_checkpoint, TensorBoardLogger.after_save_checkpoint)
    is_told = type(logger).after_save_checkpoint not in does_nothing
    return is_told and not isinstance(getattr(logger, "_log_model", None), bool)
