"""Every place where the launcher depends on Lightning's internals.

Each function or class here says why Lightning's public interface is not enough, and has a test of
its own in ``tests/unit/test_lightning_seams.py``, which fails first when Lightning changes. To
support a new version of Lightning, begin with that test file. What only resuming needs is in
:mod:`getiaction_launch.worker.fitting.lightning_seams`, and what only saving needs in
:mod:`getiaction_launch.worker.saving.lightning_seams`.
"""

import contextlib
import functools
import inspect
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.trainer.connectors.callback_connector import _CallbackConnector

LightningState: TypeAlias = dict[str, Any]
"""A checkpoint, or a part of one, as Lightning hands it to hooks; its keys are Lightning's own."""

FETCH = "[_TrainingEpochLoop].train_dataloader_next"
"""Name of the action that Lightning's training loop profiles while it fetches a batch."""
EPOCH = "run_training_epoch"
"""Name of the action that Lightning's training loop profiles around an epoch."""

_calls: list[dict[str, Any]] = []


class Replaced:
    """Stands for a method of one object; copies and pickles of the object have the original one.

    Args:
        owner: The object whose method is replaced.
        name: Name of the method.
        function: What is called in place of the method.
    """

    def __init__(self, owner: object, name: str, function: Callable[..., Any]) -> None:
        self._owner, self._name, self._function = owner, name, function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the method
        """Call the function."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the method of the copy, which knows nothing of this process."""
        return getattr, (self._owner, self._name)

    @classmethod
    @contextlib.contextmanager
    def replacing(cls, owner: object, name: str, function: Callable[..., Any]) -> Iterator[None]:
        """Replace a method inside a context."""
        setattr(owner, name, cls(owner, name, function))
        try:
            yield
        finally:
            vars(owner).pop(name, None)


@functools.cache
def watch_fits(watch: Callable[[Trainer, int], AbstractContextManager[dict[str, object]]]) -> None:
    """Run every ``Trainer.fit`` of this process inside a context, which may change its arguments.

    The class is patched because the checkpoint to resume from is an argument of ``fit``, which the
    user's script calls, and no callback hook runs before ``fit`` has chosen a checkpoint.

    Args:
        watch: Called with the Trainer and the number of the fit in this process, from 0. The
            context that it returns yields the arguments to replace, by name.
    """
    original = Trainer.fit
    numbers = itertools.count()

    @functools.wraps(original)
    def fit(self: Trainer, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in Trainer.fit
        number = next(numbers)
        call = inspect.signature(original).bind(self, *args, **kwargs)
        _calls.append(call.arguments)
        try:
            with watch(self, number) as replaced:
                call.arguments.update(replaced)
                original(*call.args, **call.kwargs)
        finally:
            _calls.pop()

    Trainer.fit = fit  # type: ignore[method-assign]


def fit_arguments() -> Mapping[str, Any]:
    """Return the arguments of the ``Trainer.fit`` that is being watched, by name."""
    return _calls[-1] if _calls else {}


@functools.cache
def keep_out_of_shared_lists(*kinds: type[Callback]) -> None:
    """Keep callbacks of these kinds out of lists that the user's program gives to a Trainer.

    Lightning appends an entry point's callbacks, like its own default ones, to the list that it is
    given, so a second Trainer with the same list would get those of the first. There is no hook
    before that; the list of the first Trainer has been filled when this is called.
    """
    original = _CallbackConnector.on_trainer_init

    @functools.wraps(original)
    def on_trainer_init(
        self: _CallbackConnector,
        callbacks: list[Callback] | Callback | None,
        *args: Any,  # noqa: ANN401 - as in Lightning
        **kwargs: Any,  # noqa: ANN401 - as in Lightning
    ) -> None:
        if not isinstance(callbacks, list):
            original(self, callbacks, *args, **kwargs)
            return
        passed = [callback for callback in callbacks if not isinstance(callback, kinds)]
        num_passed = len(passed)
        original(self, passed, *args, **kwargs)
        added = passed[num_passed:]
        callbacks.extend(callback for callback in added if not isinstance(callback, kinds))

    _CallbackConnector.on_trainer_init = on_trainer_init  # type: ignore[method-assign]


@contextlib.contextmanager
def preparing_loaders(strategy: Strategy, prepare: Callable[[object], None]) -> Iterator[None]:
    """Call ``prepare`` with every data loader of a fit before its first iterator is made.

    The strategy's method is replaced because no callback hook runs after Lightning has replaced a
    loader's sampler and before the loader's worker processes start.
    """
    process = strategy.process_dataloader

    def process_dataloader(dataloader: object) -> object:
        loader = process(dataloader)
        prepare(loader)
        return loader

    with Replaced.replacing(strategy, "process_dataloader", process_dataloader):
        yield


class FetchWatch(Profiler):
    """Calls a function right before each training batch is fetched; otherwise the user's profiler.

    At that moment every hook of the previous step and its validation are over. No callback hook
    runs then (``on_train_batch_start`` comes after the fetch), but the profiler is called.

    Args:
        profiler: The user's own profiler, which gets every call.
        before_fetch: Called without arguments before each fetch.
        before_epoch: Called without arguments before each epoch, after all hooks of its start.
    """

    def __init__(
        self,
        profiler: Profiler,
        before_fetch: Callable[[], object],
        before_epoch: Callable[[], object] = bool,
    ) -> None:
        # The base's constructor is not called: its attributes would hide those of the profiler.
        self._profiler, self._before_fetch = profiler, before_fetch
        self._before_epoch = before_epoch

    def start(self, action_name: str) -> None:
        """Start profiling an action, after calling the function if that is a fetch."""
        if action_name == FETCH:
            self._before_fetch()
        self._profiler.start(action_name)

    def stop(self, action_name: str) -> None:
        """Stop profiling an action."""
        self._profiler.stop(action_name)

    def profile(self, action_name: str) -> Any:  # noqa: ANN401 - the base's type is private
        """Profile an action in the user's profiler, which may override this method."""
        if action_name == EPOCH:
            self._before_epoch()
        return self._profiler.profile(action_name)

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the user's profiler in copies and pickles."""
        return operator.itemgetter(0), ((self._profiler,),)

    def summary(self) -> str:
        """Summarize what the user's profiler has recorded."""
        return self._profiler.summary()

    def describe(self) -> None:
        """Log what the user's profiler has recorded."""
        self._profiler.describe()

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Set the user's profiler up."""
        self._profiler.setup(stage, local_rank, log_dir)

    def teardown(self, stage: str | None) -> None:
        """Tear the user's profiler down."""
        self._profiler.teardown(stage)

    @property
    def local_rank(self) -> int:
        """Rank of this process on its node."""
        return self._profiler.local_rank

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the profiler has
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._profiler, name)

    def __del__(self) -> None:
        """Keep the user's profiler open; the base class would tear it down."""


@contextlib.contextmanager
def watching_fetches(
    trainer: Trainer, before_fetch: Callable[[], object], before_epoch: Callable[[], object] = bool
) -> Iterator[None]:
    """Call ``before_fetch`` right before each training batch is fetched.

    :class:`FetchWatch` explains why a profiler does this. ``Trainer.profiler`` is public, but set
    in another module of Lightning, so type checkers do not know it.
    """
    untyped: Any = trainer
    users = untyped.profiler
    untyped.profiler = FetchWatch(users, before_fetch, before_epoch)
    try:
        yield
    finally:
        untyped.profiler = users


def finish_restarting(trainer: Trainer) -> None:
    """Make Lightning forget that it resumed in the middle of an epoch.

    Otherwise it would not step a ReduceLROnPlateau at the end of this epoch. The private attribute
    is set because the public setter would also reset the inner loops, which still need it.
    """
    trainer.fit_loop._restarting = False  # noqa: SLF001


def restore_outcome(
    trainer: Trainer, metrics: Mapping[str, torch.Tensor], *, should_stop: bool
) -> None:
    """Restore the metrics and the request to stop, which Lightning does not save.

    Plateau schedulers and early stopping may read ``callback_metrics`` before anything is logged in
    the resumed epoch. Both names are public, but it is undocumented that they may be written.
    """
    trainer.should_stop = should_stop
    trainer.callback_metrics.update(metrics)


def is_between_steps(trainer: Trainer) -> bool:
    """Whether no batch is in training, and no accumulated gradients wait for further batches.

    The public properties count steps and batches, but not batches that have begun and not ended.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress.current
    is_idle = batches.ready == batches.completed
    return is_idle and batches.completed % trainer.accumulate_grad_batches == 0


def fit_loop_state(checkpoint: LightningState) -> LightningState:
    """Return the fit loop's part of a checkpoint; its ``combined_loader`` has the loaders' states.

    The layout is private to Lightning, which saves the loaders of rank 0 there, while each rank
    needs its own.
    """
    state: LightningState = checkpoint["loops"]["fit_loop"]["state_dict"]
    return state
