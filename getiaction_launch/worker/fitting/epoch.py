"""Resumes in the middle of an epoch whose loaders carry no state.

Lightning starts such loaders over, so the batches that were trained on before come again, and an
epoch of a loader without length never gets shorter. Here those batches are skipped. So that they
are the same ones, the random generators are first set to what they were when the epoch's iterator
was made: that decides the order of every torch sampler, the seeds of loader processes, and what a
seeded dataset draws. A map-style dataset is not read for this, only its indices are drawn.
"""

import contextlib
import copy
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypedDict, TypeGuard

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler
from torch.utils.data.sampler import (
    BatchSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from getiaction_launch.worker.fitting.lightning_seams import (
    batches_read,
    count_batches,
    has_read_nothing,
    load_left_states,
    loader_states,
    makes_iterator,
    reads_ahead,
    take_batches,
    training_loaders,
)
from getiaction_launch.worker.fitting.other_ranks import continue_epoch, follow_positions
from getiaction_launch.worker.fitting.random_state import (
    RandomState,
    random_state,
    set_random_state,
)
from getiaction_launch.worker.progress import say

_REPEATABLE = (
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
"""Samplers whose order depends on random generators, seed and epoch, and on nothing else."""
_BEGINNING = "resuming in the middle of an epoch, but the data loader has no state_dict(): "


class Randomness(TypedDict):
    """States of the global generators, and of those of the training loaders and their samplers."""

    process: RandomState
    loaders: list[torch.Tensor]


class EpochState(TypedDict):
    """What resuming in the middle of an epoch needs.

    Attributes:
        batches: Batches of the epoch that were read to be trained on.
        at_iterator: The generators when the epoch's iterator was made.
        at_fetch: The generators when its first batch was fetched.
        at_save: The loaders' generators when the checkpoint was saved.
        restarts: How often the epoch was begun anew, since its batches cannot be skipped.
    """

    batches: int
    at_iterator: Randomness | None
    at_fetch: Randomness | None
    at_save: list[torch.Tensor]
    restarts: int


class Epoch:
    """What decides the order of the current epoch of a fit, and where resuming continues in it.

    Args:
        trainer: The Trainer that fits.

    Attributes:
        restarts: How often the current epoch was begun anew.
        note: What is repeated since training resumed, for people; None if nothing is.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._resumed: EpochState | None = None
        self._other = 0, 0
        self._resumed_fetch: Randomness | None = None
        self._loaders: list[Any] = []
        self._at_iterator: Randomness | None = None
        self._at_fetch: Randomness | None = None
        self._skips: list[SkippedBatches] = []
        self._states: list[Any] | None = None
        self._states_before: list[Any] | None = None
        self.restarts = 0
        self.note: str | None = None

    def state(self) -> EpochState:
        """Return what resuming from here needs, between two batches."""
        return {
            "batches": batches_read(self._trainer),
            "at_iterator": self._at_iterator,
            "at_fetch": self._at_fetch,
            "at_save": self._randomness()["loaders"],
            "restarts": self.restarts,
        }

    def loader_states(self) -> list[Any] | None:
        """Return the states of loaders that Lightning reads ahead of; None for all others."""
        return self._states_before

    def resume(self, state: EpochState, other_ranks: int | None) -> None:
        """Take the state of a checkpoint, before the loaders are set up.

        Args:
            state: The state that this rank has saved; another rank's if their number was another.
            other_ranks: How many ranks have saved it, if not as many as there are now.
        """
        if other_ranks:
            self._other = other_ranks, state["batches"]
        else:
            self._resumed, self._resumed_fetch = state, state["at_fetch"]

    def prepare(self, loader: object) -> None:
        """Get a training loader ready, right before its first iterator is made."""
        self._loaders.append(loader)
        if self._resumed and not _has_state(loader):
            self._set(self._resumed["at_iterator"])
            if _draws_indices(loader):
                self._skips.append(SkippedBatches(loader, self._resumed["batches"], self._first))
        self._at_iterator, self._at_fetch = self._randomness(), None

    def begin(self) -> None:
        """Skip what was trained on before, once the loaders are set up and before training."""
        load_left_states(self._trainer)
        self._loaders = training_loaders(self._trainer)
        self._continue_on_other_ranks()
        resumed, skips = self._resumed, self._skips
        for skip in skips:
            skip.detach()
        if resumed is None or not (number := resumed["batches"]):
            return
        self._at_iterator, self._at_fetch = resumed["at_iterator"], resumed["at_fetch"]
        self.restarts = resumed["restarts"]
        without_state = [loader for loader in self._loaders if not _has_state(loader)]
        if not without_state:
            follow_positions(self._trainer, number)
            return
        batches = "batch 0" if number == 1 else f"batches 0 to {number - 1}"
        batches += " of this epoch, on which it was trained before"
        if len(skips) == len(without_state) and all(skip.is_within for skip in skips):
            count_batches(self._trainer, number)
            self.note = f"skipping {batches}"
            if not all(map(_is_repeatable, without_state)):
                name = type(without_state[0].sampler).__name__
                self.note += f"; exact if {name} returns the same order again"
            self.note += "."
        elif len(without_state) == len(self._loaders):
            for skip in skips:
                skip.cancel()
            if not reads_ahead(self._trainer):
                self._set(resumed["at_fetch"])
            take_batches(self._trainer, number)
            self.note = f"reading and skipping {batches}; exact if the loader repeats its order."
        else:
            self.restarts += 1
            self.note = f"training again on {batches}."
        if self._trainer.is_global_zero:
            say(_BEGINNING + self.note)

    def _continue_on_other_ranks(self) -> None:
        """Count what another number of ranks has read of the epoch, if one has saved it."""
        ranks, batches = self._other
        if batches:
            self.note = continue_epoch(self._trainer, ranks, batches)
            if self._trainer.is_global_zero:
                say(f"resuming in the middle of an epoch: {self.note}")

    def before_epoch(self) -> None:
        """Note what decides the order of an epoch, if it makes its iterator now."""
        self._loaders = training_loaders(self._trainer)
        if makes_iterator(self._trainer):
            self._at_iterator, self._at_fetch = self._randomness(), None
            self.restarts, self.note = 0, None

    def before_fetch(self) -> bool:
        """Note what decides the order, and return whether training can resume from here.

        It cannot while the first batch of an epoch is read ahead: the epoch has not begun.
        """
        if resumed := self._resumed:
            self._set_loaders(resumed["at_save"])
            self._resumed = None
        if self._at_fetch is None:
            self._at_fetch = self._randomness()
        if has_read_nothing(self._trainer):
            self._states = self._states_before = None
            return False
        if reads_ahead(self._trainer) and all(map(_has_state, self._loaders)):
            # The batch that is read ahead comes next, so the state before it is what counts.
            states = copy.deepcopy(loader_states(self._trainer))
            self._states_before, self._states = self._states, states
            return self._states_before is not None
        return True

    def _randomness(self) -> Randomness:
        generators = [generator.get_state() for generator in self._generators()]
        return {
            "process": random_state(self._trainer.strategy.root_device),
            "loaders": generators,
        }

    def _set(self, randomness: Randomness | None) -> None:
        if randomness:
            set_random_state(randomness["process"])
            self._set_loaders(randomness["loaders"])

    def _set_loaders(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._generators(), states, strict=False):
            generator.set_state(state)

    def _generators(self) -> list[torch.Generator]:
        """Return the generators of the loaders and samplers, each once, in a fixed order."""
        found: dict[int, torch.Generator] = {}
        for loader in self._loaders:
            batch_sampler = getattr(loader, "batch_sampler", None)
            nested = getattr(batch_sampler, "sampler", None)
            for owner in (loader, getattr(loader, "sampler", None), batch_sampler, nested):
                generator = getattr(owner, "generator", None)
                if isinstance(generator, torch.Generator):
                    found[id(generator)] = generator
        return list(found.values())

    @contextlib.contextmanager
    def _first(self) -> Iterator[None]:
        """Be where the epoch fetched its first batch: a loader without processes draws there."""
        now = self._randomness()
        self._set(self._resumed_fetch)
        try:
            yield
        finally:
            self._set(now)


class SkippedBatches:
    """Stands for a loader's batches of indices while its iterator is made, and leaves some out.

    Args:
        loader: A map-style loader that has no iterator yet.
        number: How many batches the next iterator leaves out.
        at_first_fetch: Context to draw in if the loader draws when its first batch is fetched.
    """

    def __init__(
        self,
        loader: "DataLoader[Any]",
        number: int,
        at_first_fetch: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._loader, self._number = loader, number
        self._name = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self._batches: Any = getattr(loader, self._name)
        self._context = contextlib.nullcontext if loader.num_workers else at_first_fetch
        self.is_within = number < len(loader)
        # Written past torch's setter, which forbids it.
        loader.__dict__[self._name] = self

    def detach(self) -> None:
        """Give the loader its own batches back; an iterator that exists keeps this object."""
        if self._loader.__dict__[self._name] is self:
            self._loader.__dict__[self._name] = self._batches

    def cancel(self) -> None:
        """Leave nothing out, if nothing has been drawn yet."""
        self._number = 0

    def __iter__(self) -> Iterator[Any]:
        """Draw the batches that are left out when the first one is wanted, as torch does."""
        number, self._number = self._number, 0
        batches = iter(self._batches) if not number else self._remaining(number)
        yield from batches

    def _remaining(self, number: int) -> Iterator[Any]:
        with self._context():
            batches = iter(self._batches)
            for _ in itertools.islice(batches, number):
                pass
        yield from batches

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the batches have
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._batches, name)


def _draws_indices(loader: object) -> "TypeGuard[DataLoader[Any]]":
    """Whether a loader reads a map-style dataset in torch's way, by indices, and has not begun."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    is_torchs = all(
        getattr(type(loader), name) is getattr(DataLoader, name)
        for name in ("__iter__", "_get_iterator", "_index_sampler")
    )
    return is_torchs and getattr(loader, "_iterator", None) is None


def _has_state(loader: object) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")


def _is_repeatable(loader: "DataLoader[Any]") -> bool:
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    return type(loader.batch_sampler) in (BatchSampler, type(None)) and isinstance(
        sampler, _REPEATABLE
    )
