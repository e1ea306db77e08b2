"""An epoch that is resumed in its middle sees each batch once, whatever its loader is."""

import os
import random
import signal

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from tiny import BATCHES, EPOCHS, ResumableLoader, Tiny, equal
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)

from getiaction_launch.run.checkpoint import newest

DATA = torch.rand(BATCHES * 2, 4, generator=torch.Generator().manual_seed(0))


class Stream(IterableDataset):
    """Samples in their order, with as many in each process as it is given."""

    def __init__(self, kind: str = "plain") -> None:
        self.kind = kind

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        mine = DATA[info.id :: info.num_workers] if info else DATA
        if self.kind == "shuffled":
            mine = mine[torch.randperm(len(mine), generator=torch.Generator().manual_seed(3))]
        for sample in mine:
            yield sample + torch.rand(()) if self.kind == "noisy" else sample


class Noisy(Dataset):
    """Draws from every generator when it is read."""

    def __len__(self):
        return len(DATA)

    def __getitem__(self, index):
        return DATA[index] + torch.rand(()) + random.random()  # noqa: S311 - a user's


class OwnOrder(Sampler):
    """A sampler of the user's own."""

    def __len__(self):
        return len(DATA)

    def __iter__(self):
        return iter(torch.randperm(len(DATA)).tolist())


def seeded():
    """Make a generator of the user's own."""
    return torch.Generator().manual_seed(5)


class Length(IterableDataset):
    """A stream that knows its length."""

    def __len__(self):
        return len(DATA)

    def __iter__(self):
        return iter(DATA)


class OwnStream(ResumableLoader):
    """A loader with state and without length."""

    def __init__(self):
        super().__init__(Stream(), batch_size=2)


class Batches:
    """What Lightning also takes as a loader."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return iter(DATA.split(self.size))


LOADERS = {
    "in order": lambda: DataLoader(DATA, batch_size=2),
    "shuffled": lambda: DataLoader(DATA, batch_size=2, shuffle=True),
    "shuffled by a generator": lambda: DataLoader(
        DATA, batch_size=2, shuffle=True, generator=seeded()
    ),
    "sampler with a generator": lambda: DataLoader(
        DATA, batch_size=2, sampler=RandomSampler(DATA, generator=seeded())
    ),
    "weighted": lambda: DataLoader(
        DATA, batch_size=2, sampler=WeightedRandomSampler([1.0] * 5 + [3.0] * 5, 10)
    ),
    "own sampler": lambda: DataLoader(DATA, batch_size=2, sampler=OwnOrder()),
    "noisy": lambda: DataLoader(Noisy(), batch_size=2, shuffle=True),
    "in processes": lambda: DataLoader(DATA, batch_size=2, shuffle=True, num_workers=1),
    "without batches": lambda: DataLoader(DATA, batch_size=None, shuffle=True),
    "stream": lambda: DataLoader(Stream(), batch_size=2),
    "shuffled stream": lambda: DataLoader(Stream("shuffled"), batch_size=2),
    "stream in processes": lambda: DataLoader(Stream("noisy"), batch_size=2, num_workers=1),
    "stream of known length": lambda: DataLoader(Length(), batch_size=2),
    "stream with state": OwnStream,
    "several": lambda: CombinedLoader(
        [DataLoader(DATA, batch_size=2, shuffle=True), DataLoader(DATA[:4], batch_size=2)],
        "max_size_cycle",
    ),
    "no loader of torch's": lambda: Batches(2),
}


class Seeing(Tiny):
    """Notes each batch that it trains on."""

    def __init__(self) -> None:
        super().__init__()
        self.saw = []

    def training_step(self, batch, batch_idx):
        """Take the first batch of several."""
        while isinstance(batch, list | tuple):
            batch = batch[0]
        self.saw.append(batch.tolist())
        return super().training_step(batch, batch_idx)


def remembering(kind):
    """Return what makes models of a kind, and the list of those that it has made."""
    models = []

    def make():
        models.append(kind())
        return models[-1]

    return make, models


@pytest.mark.parametrize("name", LOADERS)
def test_an_epoch_goes_on_behind_the_batches_that_were_seen(worker, name):
    """After interruptions in both epochs, weights and batches are those of undisturbed training."""
    kind, models = remembering(Seeing)
    words = {"kind": kind, "val_check_interval": 1.0}
    undisturbed = worker.fit(data=LOADERS[name](), **words)
    number = len(models[0].saw)
    results = [worker.fit(stop_at=2, data=LOADERS[name](), **words)]
    for stop_at in (number // EPOCHS, number // EPOCHS + 2, None):
        assert results[-1] is None
        resume_from = newest(worker.run).path
        data = LOADERS[name]()
        results.append(worker.fit(stop_at=stop_at, resume_from=resume_from, data=data, **words))
    saw = [batch for model in models[1:] for batch in model.saw]
    assert saw == models[0].saw
    assert equal(results[-1], undisturbed)


class Reading(Tiny):
    """Reads from its loader itself."""

    num_read = 1

    def __init__(self) -> None:
        super().__init__()
        self.saw = []

    def training_step(self, dataloader_iter):
        """Take the next batches."""
        batches = [next(dataloader_iter)[0]]
        while len(batches) < self.num_read and not dataloader_iter.done:
            batches.append(next(dataloader_iter)[0])
        self.saw += [batch.tolist() for batch in batches]
        self.on_step(self.trainer.fit_loop.total_batch_idx)
        return sum(self.layer(batch).pow(2).mean() for batch in batches)


@pytest.mark.parametrize("name", ["in order", "shuffled", "stream", "stream with state"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_step_that_reads_its_batches_is_a_step(worker, name, number):
    """A program with ``dataloader_iter`` is saved and stopped between steps, and resumes there."""

    class Own(Reading):
        num_read = number

    kind, models = remembering(Own)
    words = {"kind": kind, "max_epochs": 2}
    undisturbed = worker.fit(data=LOADERS[name](), **words)
    steps = models[0].trainer.fit_loop.total_batch_idx + 1
    assert worker.fit(stop_at=0, data=LOADERS[name](), **words) is None
    assert (
        worker.fit(
            stop_at=steps - 2, resume_from=newest(worker.run).path, data=LOADERS[name](), **words
        )
        is None
    )
    again = worker.fit(resume_from=newest(worker.run).path, data=LOADERS[name](), **words)
    saw = [batch for model in models[1:] for batch in model.saw]
    assert saw == models[0].saw
    assert equal(again, undisturbed)


def test_an_epoch_that_begins_anew_is_told_and_counted(worker, capfd):
    """What is repeated is said in the log and in the progress, until the epoch is over."""

    def mixed():
        return CombinedLoader([ResumableLoader(DATA, batch_size=2), LOADERS["stream"]()])

    words = {"kind": Seeing}
    assert worker.fit(stop_at=1, data=mixed(), **words) is None
    for restarts in (0, 1, 2):
        saved = newest(worker.run)
        assert saved.restarts == restarts
        stop_at = None if restarts == 2 else saved.step
        worker.fit(stop_at=stop_at, resume_from=saved.path, data=mixed(), **words)
    assert "training again on batches 0 to 1 of this epoch" in capfd.readouterr().err
    assert worker.run.read("progress")["notice"] is None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("shuffled", "skipping batches 0 to 2 of this epoch, on which it was trained before."),
        ("own sampler", "; exact if OwnOrder returns the same order again."),
        ("stream", "; exact if the loader repeats its order."),
    ],
)
def test_what_is_skipped_is_said_in_a_sentence(worker, capfd, name, words):
    """The log and the progress name the batches, and on what it depends that it is exact."""
    noticed = []
    assert worker.fit(stop_at=2, data=LOADERS[name]()) is None
    worker.start(resume_from=newest(worker.run).path)
    worker.fit_again(
        data=LOADERS[name](),
        on_step=lambda _: noticed.append(worker.run.read("progress")["notice"]),
    )
    assert words in capfd.readouterr().err
    assert noticed[0].endswith(words)
    assert noticed[-1] is None


def test_the_steps_that_an_optimizer_asks_for_do_not_lose_the_loaders_state(worker):
    """``estimated_stepping_batches`` sets the loaders up before Lightning has read their states."""

    class Asking(Tiny):
        def configure_optimizers(self):
            assert self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    undisturbed = worker.fit(kind=Asking)
    assert worker.fit(stop_at=2, kind=Asking) is None
    assert equal(worker.fit(resume_from=newest(worker.run).path, kind=Asking), undisturbed)


def test_a_streams_epoch_ends_however_often_it_is_interrupted(worker):
    """Every attempt makes progress: ten interruptions, and not a batch more than without them."""
    steps = []
    for stop_at in (*range(9), None):
        resume_from = newest(worker.run).path if steps else None
        worker.start(resume_from=resume_from)

        def on_step(batch, stop_at=stop_at):
            steps.append(batch)
            if batch == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

        worker.fit_again(data=LOADERS["stream"](), on_step=on_step)
    assert steps == list(range(BATCHES * EPOCHS))
