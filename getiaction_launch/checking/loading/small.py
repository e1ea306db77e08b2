"""A small loader to try a model with: two batches, which stand for the epoch that they are of.

Many a fault is in the last batch of an epoch alone, which often has fewer samples than the others.
"""

import copy
from collections.abc import Callable
from typing import Any

from getiaction_launch.checking.lightning_seams import pretend_worker

TRIAL_SAMPLES = 2
"""Samples of a trial batch: one alone would not do for batch normalisation."""
End = tuple[int, int] | None
"""How many samples an epoch has, and its last batch; None if that is not reached, or not known."""


def whole(loader: Any) -> Any:  # noqa: ANN401 - as it was given
    """Return a loader of the same batches without processes of its own.

    Args:
        loader: A loader, or a list or a dict of them.
    """
    return _each(loader, _alone)


def small(loader: Any, samples: int | None, end_of: Callable[[Any], End]) -> Any:  # noqa: ANN401 - as it was given
    """Return a loader of the same data without processes of its own, and with small batches.

    Args:
        loader: A loader, or a list or a dict of them.
        samples: Number of samples in a batch; None for that of the loader.
        end_of: Function that returns where an epoch of a loader ends.
    """
    return _each(loader, lambda each: _small(each, samples, end_of))


def _each(loader: Any, make: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - as it was given
    """Return what is made of a DataLoader, or of each one that a list or a dict has."""
    from torch.utils.data import DataLoader

    if isinstance(loader, dict):
        return {name: _each(each, make) for name, each in loader.items()}
    if isinstance(loader, (list, tuple)):
        return [_each(each, make) for each in loader]
    return make(loader) if isinstance(loader, DataLoader) else loader


def _small(loader: Any, samples: int | None, end_of: Callable[[Any], End]) -> Any:  # noqa: ANN401 - a DataLoader
    from torch.utils.data import DataLoader

    if loader.batch_size is None or (samples is None and type(loader) is not DataLoader):
        return _alone(loader)
    end = end_of(loader)
    if end is None:
        if samples is None:
            return _alone(loader)
        size, drawn = min(samples, loader.batch_size), None
    else:
        size, drawn = _ends(*end, loader.batch_size, samples)
    if samples is None:
        begin_worker(loader)
    return DataLoader(loader.dataset, size, sampler=drawn, collate_fn=loader.collate_fn)


def _ends(number: int, rest: int, whole: int, samples: int | None) -> tuple[int, list[int]]:
    """Return the size of a batch, and the samples of the first batch of an epoch and the last one.

    Args:
        number: Number of samples of the epoch.
        rest: Number of samples in its last batch.
        whole: Number of samples in any other batch.
        samples: Number of samples that a batch shall have; None for as many as it has.
    """
    is_smaller = rest < whole
    size = whole if samples is None else min(samples + is_smaller, whole)
    last = min(rest, size - is_smaller)
    if number <= whole:  # the first batch is the last one
        return size, [*range(min(number, size))]
    return size, [*range(size), *range(number - last, number)]


def _alone(loader: Any) -> Any:  # noqa: ANN401 - a DataLoader
    """Return a loader that fetches the same batches in this process, as its first worker would."""
    each = copy.copy(loader)
    # Not by its attributes, of which it refuses to change some.
    vars(each).update(num_workers=0, timeout=0, prefetch_factor=None, persistent_workers=False)
    vars(each)["_DataLoader__multiprocessing_context"] = None
    begin_worker(loader)
    return each


def begin_worker(loader: Any) -> None:  # noqa: ANN401 - a DataLoader
    """Have this process read a dataset as the first process of its loader would, if it has any.

    Args:
        loader: The DataLoader of the run.
    """
    if loader.num_workers:
        pretend_worker(loader.dataset)
        if loader.worker_init_fn is not None:
            loader.worker_init_fn(0)
