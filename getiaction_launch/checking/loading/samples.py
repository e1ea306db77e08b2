"""Samples of a dataset that few batches have: whether they can be read, and be put into a batch.

The first and the last one are read, and others between them in all parts of the dataset, for as
long as that is cheap.
"""

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from getiaction_launch.checking.apart.aside import look_aside
from getiaction_launch.checking.apart.sandbox import wishes
from getiaction_launch.checking.blame import blame, words_of
from getiaction_launch.checking.built import Built
from getiaction_launch.checking.collating import NONE, fix_of_none, fix_of_sizes
from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.frames import is_own, own_frames
from getiaction_launch.checking.loading.batches import TRAINING, epoch_end, sharing
from getiaction_launch.checking.loading.loaders import Loaders
from getiaction_launch.checking.loading.small import begin_worker
from getiaction_launch.checking.script.files import fix_of_file

_SECONDS = 0.3
"""CPU time that reading samples may take, of all loaders together."""
_EXPENSIVE = 3
"""How many samples it must at least be enough for."""
_LIMIT_SECONDS = 3
"""How long it may take in all, where samples are waited for."""
_ROWS = 8
"""Most samples of a batch that is made."""
_GOLDEN = (5**0.5 - 1) / 2


def faulty_sample(built: Built, loaders: Loaders) -> Finding | None:
    """Return the first sample that fails, of those that are read; None if there is none.

    Args:
        built: What the spec names.
        loaders: The loaders of the run, which have been asked for.
    """
    newest = loaders.newest
    held_out = newest.get("val_dataloader") if _validates(built, loaders) else ()
    groups = held_out if isinstance(held_out, (list, tuple)) else [held_out]
    limits = [
        (newest.get("train_dataloader"), TRAINING),
        *((each, "limit_val_batches") for each in groups),
    ]
    ends = [(loader, epoch_end(built, loader, limit)) for loader, limit in limits]
    known = [(loader, end[0]) for loader, end in ends if end]
    if not known:
        return None

    def look() -> Finding | None:
        import torch

        torch.set_num_threads(1)
        before = len(wishes)
        found = (_Samples(built, *each).find(_SECONDS / len(known)) for each in known)
        first = next(filter(None, found), None)
        return first if len(wishes) == before else None  # what a run may do, a trial may not

    return look_aside(look, _LIMIT_SECONDS)


def _validates(built: Built, loaders: Loaders) -> bool:
    """Whether the run surely validates on all of its validation data."""
    every = built.arguments.get("check_val_every_n_epoch", 1)
    epochs = built.trainer.max_epochs
    is_in_time = every is None or epochs in (None, -1) or every <= epochs
    is_by_epochs = int(built.arguments.get("max_steps") or -1) < 0
    return loaders.validates() and is_in_time and is_by_epochs


class _Samples:
    """The samples that an epoch of a loader has.

    Args:
        built: What the spec names.
        loader: A DataLoader that has each of them once in an epoch, in order or shuffled.
        number: How many they are.
    """

    def __init__(self, built: Built, loader: Any, number: int) -> None:  # noqa: ANN401 - as above
        from torch.utils.data import RandomSampler

        self._built, self._loader, self._number = built, loader, number
        self._is_shuffled = isinstance(loader.sampler, RandomSampler)
        self._size = min(loader.batch_size, _ROWS)

    def find(self, seconds: float) -> Finding | None:
        """Return the first sample that fails; None if there is none, or a sample is expensive.

        Args:
            seconds: CPU time that it may take.
        """
        begin_worker(self._loader)
        begun = time.process_time()
        for count, index in enumerate(_spread(self._number)):
            found = self._judge(index)
            spent = time.process_time() - begun
            if found or spent > (seconds if count else seconds / _EXPENSIVE):
                return found
        return None

    def _judge(self, index: int) -> Finding | None:
        if error := _error_of(lambda: self._read(index)):
            again = _error_of(lambda: self._read(index))
            return self._of_reading(index, error) if type(again) is type(error) else None
        other = self._beside(index)
        if _error_of(lambda: self._collate(index, other, 1)) is None:
            return None
        if other is not None and _error_of(lambda: self._collate(other, other, self._size - 1)):
            return None  # it takes other batches than those of a few samples
        error = _error_of(lambda: self._collate(index, other, self._size - 1))
        return self._of_collating(index, other, error) if error else None

    def _beside(self, index: int) -> int | None:
        """Return a sample that may be in a batch with another one; None if that is alone there."""
        if self._loader.batch_size == 1:
            return None
        if self._is_shuffled:
            first = int(index == 0)
            return first if first < self._number else None
        world, size = sharing(self._built), self._loader.batch_size
        place, rank = divmod(index, world)
        first = place - place % size
        other = (first + int(first == place)) * world + rank
        return other if other < self._number else None

    def _read(self, index: int) -> Any:  # noqa: ANN401 - a sample of any kind
        """Read a sample as a DataLoader does."""
        dataset = self._loader.dataset
        if getattr(dataset, "__getitems__", None):
            return dataset.__getitems__([index])[0]
        return dataset[index]

    def _collate(self, index: int, other: int | None, others: int) -> None:
        """Put a sample into a batch, behind another one that may be in it several times."""
        before = [] if other is None else [self._read(other)] * others
        self._loader.collate_fn([*before, self._read(index)])

    def _of_reading(self, index: int, error: Exception) -> Finding | None:
        fix: str | None = fix_of_file(error)
        if isinstance(error, IndexError):
            readable = self._count_readable(index)
            kind = type(self._innermost(index)[0]).__name__
            length = len(self._loader.dataset)
            fix = f"Have {kind}.__getitem__ reach no further than its data, or __len__ count only "
            fix += f"what it can read, {readable} of {length}" if readable else "what it can read"
        return self._judged(index, error, "cannot be read", fix)

    def _count_readable(self, index: int) -> int | None:
        """Return how many samples can be read, if only the last ones cannot."""
        if index != self._number - 1:
            return None
        low, high = 0, index  # the first one that fails is in low + 1, ..., high
        while high - low > 1:
            middle = (low + high) // 2
            if _error_of(lambda at=middle: self._read(at)):  # type: ignore[misc]
                high = middle
            else:
                low = middle
        return high

    def _of_collating(self, index: int, other: int | None, error: Exception) -> Finding | None:
        dataset = self._innermost(index)[0]
        if self._read(index) is None:
            fix = f"Leave such samples out where {type(dataset).__name__} lists them, or in a "
            fix += "collate_fn: default_collate([each for each in samples if each is not None])"
            return self._judged(index, error, "is None", fix)
        beside = f" with sample {self._innermost(other)[1]}" if other is not None else ""
        sizes = fix_of_sizes(self._loader.dataset) if "equal size" in str(error) else None
        if NONE in str(error):
            sizes = fix_of_none(dataset, [self._read(index)])
        return self._judged(index, error, f"cannot be put into a batch{beside}", sizes)

    def _judged(self, index: int, error: Exception, lead: str, fix: str | None) -> Finding | None:
        built, (dataset, inner) = self._built, self._innermost(index)
        owner = built.data if built.data is not None else built.model
        key = built.script if built.has_loaders else built.key_of(type(owner).__name__, "data")
        if not blame(error, "data", built.spec, key, built.place).is_refusal:
            return None
        kind = type(dataset)
        place = "".join(
            f" at {Path(each.filename).name}:{each.lineno} ({each.line})"
            for each in own_frames(error)[-1:]
        )
        shown = f"sample {inner} of {kind.__name__} {lead}"
        with contextlib.suppress(OSError, TypeError, AttributeError):
            file, (_, line) = inspect.getfile(kind), inspect.getsourcelines(kind.__getitem__)
            place = place or (f" ({Path(file).name}:{line})" if is_own(file) else "")
        fix = fix or f"Correct {kind.__name__}, or leave such samples out of it"
        judged = refusal if self._is_sure() else doubt
        return judged("data", key, f"{key}: {shown}: {words_of(error)[0]}{place}", fix)

    def _is_sure(self) -> bool:
        """Whether the run comes to each of them: not to some of a single shuffled epoch."""
        is_dropped = self._loader.drop_last and self._is_shuffled
        is_short = is_dropped and self._built.trainer.max_epochs in (None, 1)
        return not is_short and not self._built.arguments.get("max_time")

    def _innermost(self, index: int) -> tuple[Any, int]:
        """Return the dataset of which a subset has chosen a sample, and its index there."""
        from torch.utils.data import Subset

        dataset: Any = self._loader.dataset
        while type(dataset) is Subset:
            dataset, index = dataset.dataset, int(dataset.indices[index])
        return dataset, index


def _spread(number: int) -> Iterator[int]:
    """Yield each index once: the first, the last, and then at once some of all parts."""
    yield from (0, number - 1)[:number]
    step = max(1, round(number * _GOLDEN))
    while math.gcd(step, number) > 1:
        step += 1
    for count in range(1, number):
        index = count * step % number
        if index not in (0, number - 1):
            yield index


def _error_of(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever the user's classes raise
        return error
    return None
