"""The training loop of a program of its own: the steps of its optimizers, and its loaders."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from getiaction_launch.checking.trial.batches import hash_of, length_of

STEPS = 2
_MORE_SECONDS = 3
"""How long a program runs after its second step, in epochs of a batch, to come to its end."""


class Loop:
    """Counts what a program does, and ends its epochs early once it has trained enough.

    Args:
        come: Function to call with the optimizer that has made the second step.
        see_later: Function to call at each step from some seconds later.

    Attributes:
        is_enough: Whether an optimizer has made two steps.
        batches: How many batches the loader has that is read; None if it is not known.
        seen: Hashes of the first batches that it has given.
    """

    def __init__(self, come: Callable[[Any], None], see_later: Callable[[], None]) -> None:
        self.is_enough = False
        self.batches: int | None = None
        self.seen: list[str] = []
        self._come, self._see_later = come, see_later
        self._steps: Counter[int] = Counter()
        self._begun = time.monotonic()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Watch optimizers and loaders of torch in the context."""
        from torch.optim.optimizer import register_optimizer_step_post_hook
        from torch.utils.data import DataLoader

        iterate: Callable[[Any], Iterator[Any]] = DataLoader.__iter__

        def shortened(loader: Any) -> Iterator[Any]:  # noqa: ANN401 - a DataLoader
            if not self.is_enough:
                self.batches, self.seen = length_of(loader), []
            for batch in iterate(loader):
                if len(self.seen) < STEPS:
                    self.seen.append(hash_of(batch))
                yield batch
                if self.is_enough:
                    return

        DataLoader.__iter__ = shortened  # type: ignore[method-assign,assignment]
        hook = register_optimizer_step_post_hook(self._note)
        try:
            yield
        finally:
            hook.remove()
            DataLoader.__iter__ = iterate  # type: ignore[method-assign,assignment]

    def _note(self, optimizer: object, *_: object) -> None:
        self._steps[id(optimizer)] += 1
        if not self.is_enough and self._steps[id(optimizer)] == STEPS:
            self.is_enough, self._begun = True, time.monotonic()
            self._come(optimizer)
        elif self.is_enough and time.monotonic() - self._begun > _MORE_SECONDS:
            self._see_later()
