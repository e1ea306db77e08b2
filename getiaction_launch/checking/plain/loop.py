"""The training loop of a program of its own: the steps of its optimizers, and its loaders."""

import contextlib
import time
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from getiaction_launch.checking.apart.abort import keep_cut
from getiaction_launch.checking.loading.batches import hash_of, length_of
from getiaction_launch.checking.plain.empty import Empty
from getiaction_launch.checking.replacing import replacing

STEPS = 2
_MORE_SECONDS = 3
"""How long a program runs after its second step, in epochs of a batch, to come to its end."""


@dataclass
class Reading:
    """What a program reads of a loader.

    Attributes:
        batches: How many batches an epoch has; None if it is not known.
        sampler: The DistributedSampler that divides the samples; None if there is none.
        is_even: Whether its batches have as many samples on each rank.
        seen: Hashes of its first batches.
    """

    batches: int | None = None
    sampler: Any = None
    is_even: bool = True
    seen: list[str | None] = field(default_factory=list)


class Loop:
    """Counts what a program does, and ends its epochs early once it has trained enough.

    Args:
        begin: Function to call with each optimizer that has made its first step.
        come: Function to call with the optimizer that has made the second step.
        see_later: Function to call at each step from some seconds later.

    Attributes:
        is_enough: Whether an optimizer has made two steps.
        reading: What the program reads that has given the newest batch.
        cuts: How many epochs were ended early.
        empty: What it reads that has no batch.
    """

    def __init__(
        self,
        begin: Callable[[Any], None],
        come: Callable[[Any], None],
        see_later: Callable[[], None],
    ) -> None:
        self.is_enough = False
        self.reading = Reading()
        self.cuts = 0
        self.empty = Empty()
        self._begin, self._come, self._see_later = begin, come, see_later
        self._steps: MutableMapping[Any, int] = WeakKeyDictionary()
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch optimizers and loaders of torch in the context."""
        from torch.optim.optimizer import register_optimizer_step_post_hook
        from torch.utils.data import DataLoader, DistributedSampler

        iterate: Callable[[Any], Any] = DataLoader.__iter__

        def shortened(loader: Any) -> Any:  # noqa: ANN401 - a DataLoader
            self.empty.look(loader)
            sampler = getattr(loader, "sampler", None)
            given = sampler if isinstance(sampler, DistributedSampler) else None
            is_even = loader.batch_size is not None
            reading = Reading(length_of(loader), given, is_even=is_even)
            return _Shortened(iterate(loader), reading, self)

        hook = register_optimizer_step_post_hook(self._note)
        try:
            with replacing(DataLoader, __iter__=shortened):
                yield
        finally:
            hook.remove()

    def _note(self, optimizer: Any, *_: object) -> None:  # noqa: ANN401 - one of torch
        self.empty.has_batches = True
        self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
        if not self.is_enough and self._steps[optimizer] == 1:
            self._begin(optimizer)
        elif not self.is_enough and self._steps[optimizer] == STEPS:
            self.is_enough, self._begun = True, time.monotonic()
            self._come(optimizer)
        elif self.is_enough and time.monotonic() - self._begun > _MORE_SECONDS:
            self._see_later()


class _Shortened:
    """An iterator over batches that ends after the first one, once a loop has trained enough."""

    def __init__(self, batches: Any, reading: Reading, loop: Loop) -> None:  # noqa: ANN401 - any iterator
        self._batches, self._reading, self._loop = batches, reading, loop
        self._is_begun = False

    def __iter__(self) -> "_Shortened":
        return self

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - what the iterator has
        return getattr(self._batches, name)

    def __next__(self) -> Any:  # noqa: ANN401 - a batch
        if self._is_begun and self._loop.is_enough:
            self._loop.cuts += 1
            keep_cut(is_even=self._reading.is_even)
            raise StopIteration
        batch = next(self._batches)
        self._is_begun, self._loop.reading = True, self._reading
        self._loop.empty.has_batches = True
        if len(self._reading.seen) < STEPS:
            self._reading.seen.append(hash_of(batch))
        return batch
