"""Resuming is exact: after any step, a resumed run does what the uninterrupted one did."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.profilers import PassThroughProfiler
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from getiaction.data import LeRobotDataModule
from getiaction.data.loader import EpochSampler, ResumableLoader
from getiaction_launch.worker.lightning_seams import FETCH


class _Noisy(Dataset[dict[str, Any]]):
    """Samples that take random numbers of every kind when they are read."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.append(index)
        noise = [torch.rand(()).item(), np.random.rand(), random.random()]  # noqa: NPY002, S311 - as transforms draw
        return {"index": index, "x": torch.tensor([index / 10, *noise])}


class _Data(LeRobotDataModule):
    """The loaders of LeRobotDataModule, over noise."""

    def __init__(self, num_workers: int = 0) -> None:
        super().__init__(root="nowhere", train_batch_size=4, num_workers=num_workers)

    def prepare_data(self) -> None:
        """There is nothing to prepare."""

    def setup(self, stage: str | None = None) -> None:
        """Have 4 training batches of 4, with 2 samples left over, and 2 for validation."""
        self.train_dataset = self.train_dataset or _Noisy(18)
        super().setup(stage)
        self.val_dataset = torch.utils.data.Subset(_Still(), range(8))


class _Still(Dataset[dict[str, Any]]):
    """Samples without noise."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"index": index, "x": torch.arange(4.0) + index}


class _Model(LightningModule):
    """A layer with dropout that writes down all that it sees and does."""

    def __init__(self, interval: str) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Dropout(0.4), torch.nn.Linear(4, 1))
        self.interval = interval
        self.diary: list[tuple[Any, ...]] = []

    def write(self, *entry: object) -> None:
        """Add to the diary, with the loops' own idea of where they are."""
        self.diary.append((self.current_epoch, self.global_step, *entry))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Return a loss that depends on every bit of the batch."""
        lr = self.optimizers().param_groups[0]["lr"]
        self.write("train", batch_idx, batch["index"].tolist(), batch["x"].tolist(), lr)
        return self.layers(batch["x"]).square().mean()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Write down the loss."""
        self.write("validate", batch_idx, self.layers(batch["x"]).mean().item())

    def on_train_epoch_end(self) -> None:
        """Write that it was."""
        self.write("epoch ends")

    def configure_optimizers(self) -> Any:
        """Return Adam, and a schedule by step or by epoch."""
        optimizer = torch.optim.Adam(self.parameters(), 0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": self.interval}]

    def state(self) -> list[torch.Tensor]:
        """Return weights and optimizer state."""
        moments = self.optimizers().optimizer.state.values()
        return [*self.parameters(), *(value for each in moments for value in each.values())]


def _random_state() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002 - the global one is meant


class _BeforeFetch(PassThroughProfiler):
    """Lightning tells its profiler of a fetch: nothing of the step before is left to do then."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def start(self, action_name: str) -> None:
        """Act before training batches."""
        if action_name == FETCH:
            self.act()


class _SaveBeforeEachFetch(Callback):
    """Saves wherever no gradients are being accumulated, which checkpoints do not hold."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.saved: list[tuple[Path, tuple[Any, ...], int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen to what the profiler is told."""
        trainer.profiler = _BeforeFetch(lambda: self.save(trainer, pl_module))

    def save(self, trainer: Trainer, model: _Model) -> None:
        """Save a checkpoint, and beside it the random state and how much had been written."""
        if (trainer.fit_loop.batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        path = self.directory / f"{len(self.saved)}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((path, _random_state(), len(model.diary)))


class _RestoreRandomState(Callback):
    """What Lightning does not save."""

    def __init__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def on_train_start(self, *_: object) -> None:
        """Set torch's, numpy's and Python's generators."""
        torch.set_rng_state(self.state[0])
        np.random.set_state(self.state[1])  # noqa: NPY002 - as above
        random.setstate(self.state[2])


def _fit(
    directory: Path,
    callback: Callback,
    *,
    interval: str = "step",
    num_workers: int = 0,
    ckpt_path: Path | None = None,
    **options: Any,
) -> _Model:
    model = _Model(interval)
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=directory,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[callback],
        **options,
    )
    trainer.fit(model, datamodule=_Data(num_workers), ckpt_path=ckpt_path)
    return model


@pytest.mark.parametrize(
    ("options", "boundaries"),
    [
        ({"max_epochs": 3, "num_workers": 1}, 12),
        ({"max_epochs": 3, "interval": "epoch", "val_check_interval": 2}, 12),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": 3, "limit_train_batches": 3, "accumulate_grad_batches": 2}, 6),
        ({"max_steps": 10, "check_val_every_n_epoch": 2}, 10),
        ({"max_epochs": 3, "limit_train_batches": 1}, 3),
        ({"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1}, 12),
    ],
    ids=str,
)
def test_resuming_before_any_batch_changes_nothing(
    tmp_path: Path, options: dict[str, Any], boundaries: int
) -> None:
    """Each batch, validation and epoch that follows, and all that is learned, has the same bits.

    The runs are unseeded: each resumed one begins with other weights and another shuffle.
    """
    saver = _SaveBeforeEachFetch(tmp_path)
    uninterrupted = _fit(tmp_path, saver, **options)
    assert len(saver.saved) == boundaries
    # Starting loader processes takes longest; the places in the epoch are the same without them.
    saved = saver.saved[1::4] if "num_workers" in options else saver.saved
    for path, random_state, written in saved:
        resumed = _fit(tmp_path, _RestoreRandomState(random_state), ckpt_path=path, **options)
        assert resumed.diary == uninterrupted.diary[written:]
        pairs = zip(resumed.state(), uninterrupted.state(), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def _loader(
    dataset: Dataset[Any], rank: int = 0, ranks: int = 1, **options: Any
) -> ResumableLoader:
    sampler = EpochSampler(dataset, num_replicas=ranks, rank=rank, seed=3)
    return ResumableLoader(dataset, seed=3, batch_size=4, sampler=sampler, **options)


def _content(batches: Any) -> list[tuple[list[int], list[list[float]]]]:
    return [(batch["index"].tolist(), batch["x"].tolist()) for batch in batches]


def test_skipping_reads_nothing() -> None:
    """The batches before the place where a state was taken are not read again."""
    dataset = _Noisy(18)
    loader = _loader(dataset)
    loader.load_state_dict({"epoch": 7, "batches": 3})
    assert len(loader) == 5
    assert len(_content(loader)) == 2
    assert len(dataset.read) == 6


@pytest.mark.parametrize(
    "options", [{"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}], ids=str
)
def test_random_numbers_do_not_depend_on_the_reading_process(options: dict[str, Any]) -> None:
    """Noise of a batch is the same read here or in processes, new or old; and each has its own."""
    here, there = _loader(_Noisy(18)), _loader(_Noisy(18), **options)
    noises = set()
    for epoch in range(2):
        for loader in (here, there):
            loader.sampler.set_epoch(epoch)
        content = _content(here)
        assert _content(there) == content
        noises |= {noise for _, x in content for _, noise, *_ in x}
    assert len(noises) == 2 * 18


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loaders_leave_the_global_generators_alone(num_workers: int) -> None:
    """Training's random numbers are the same however often loaders are gone through."""
    data = _Data(num_workers)
    data.persistent_workers = False
    data.setup()
    loaders = [data.train_dataloader(), data.val_dataloader()]
    before = _random_state()
    for _ in range(2):
        for loader in loaders:
            assert list(loader)
    after = _random_state()
    assert torch.equal(before[0], after[0])
    assert np.array_equal(before[1][1], after[1][1])
    assert before[1][2:] == after[1][2:]
    assert before[2] == after[2]


def test_ranks_share_an_epoch_and_carry_the_same_state() -> None:
    """Two ranks read different halves, with noise of their own, and go on from one state."""
    loaders = [_loader(_Noisy(16), rank, 2) for rank in (0, 1)]
    shares = [_content(loader) for loader in loaders]
    indices = [[i for batch, _ in share for i in batch] for share in shares]
    assert sorted(indices[0] + indices[1]) == list(range(16))
    assert shares[0][0][1][0][1] != shares[1][0][1][0][1]
    for rank, share in enumerate(shares):
        first, fresh = (_loader(_Noisy(16), rank, 2) for _ in range(2))
        next(iter(first))
        assert first.state_dict().items() >= {"epoch": 0, "batches": 1}.items()
        fresh.load_state_dict(first.state_dict())
        assert _content(fresh) == share[1:]


def test_a_plain_loop_shuffles_each_round_anew() -> None:
    """Also where nobody calls `set_epoch`; and the state knows the round."""
    loader, fresh = _loader(_Noisy(16)), _loader(_Noisy(16))
    rounds = [_content(loader) for _ in range(3)]
    orders = {tuple(index for batch, _ in each for index in batch) for each in rounds}
    assert len(orders) == 3
    batches = iter(loader)
    expected = _content(batch for _, batch in zip(range(4), batches, strict=False))
    assert expected not in rounds
    fresh.load_state_dict({"epoch": 0, "batches": 3 * 4 + 1})
    assert _content(fresh) == expected[1:]


def test_an_epoch_that_was_left_early_is_over() -> None:
    """The next epoch begins at its beginning, and so does a saved state that says so."""
    loader = _loader(_Noisy(16))
    next(iter(loader))
    loader.sampler.set_epoch(1)
    assert loader.state_dict().items() >= {"epoch": 1, "batches": 0}.items()
    assert len(_content(loader)) == 4


def test_a_batch_sampler_of_lightnings_making_is_followed(tmp_path: Path) -> None:
    """`overfit_batches` reads the first batches in their order, epoch after epoch."""
    model = _fit(tmp_path, Callback(), max_epochs=2, overfit_batches=2, limit_val_batches=0)
    seen = [entry[4] for entry in model.diary if entry[2] == "train"]
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2


@pytest.mark.parametrize("shares", [True, False])
def test_without_lightnings_sampler_each_rank_reads_all_in_its_own_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, shares: bool
) -> None:
    """`use_distributed_sampler` decides whether ranks share the data."""
    orders: list[list[int]] = []
    for rank in (0, 1):
        data = _Data()
        data.setup()
        options = {"strategy": "ddp", "devices": 2, "accelerator": "cpu", "logger": False}
        data.trainer = Trainer(default_root_dir=tmp_path, use_distributed_sampler=shares, **options)
        monkeypatch.setattr(type(data.trainer), "global_rank", rank)
        monkeypatch.setattr(
            type(data.trainer),
            "distributed_sampler_kwargs",
            {"num_replicas": 2, "rank": rank},
        )
        data.load_state_dict({"shuffle_seed": 11})
        orders.append(list(data.train_dataloader().sampler))
    assert [len(order) for order in orders] == ([9, 9] if shares else [18, 18])
    assert orders[0] != orders[1]
    assert set(orders[0]) | set(orders[1]) == set(range(18))


def test_validation_loaders_are_plain() -> None:
    """What is not trained on is read in order, by torch's own loader."""
    data = _Data()
    data.setup()
    loader = data.val_dataloader()
    assert type(loader) is DataLoader
    assert isinstance(loader.sampler, SequentialSampler)


@pytest.mark.parametrize("seeding", [torch.manual_seed, lambda _: None])
def test_the_shuffle_follows_torchs_seed(seeding: Callable[[int], object]) -> None:
    """A seeded run shuffles alike each time; an unseeded one does not."""
    orders = []
    for _ in range(2):
        seeding(5)
        data = _Data()
        data.setup()
        orders.append(list(data.train_dataloader().sampler))
    assert (orders[0] == orders[1]) is (seeding is torch.manual_seed)
