"""LeRobotDataModule: cheap to make, the same split everywhere, loaders as Lightning wants them."""

import math
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer

from getiaction.data import DatasetError, LeRobotDataModule, LeRobotDataset, loader
from getiaction.data.loader import EpochSampler

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT = DATA / "pusht_like_v30"


class Linear(LightningModule):
    """A model that is no policy: an action from a state."""

    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 2)
        self.seen: list[int] = []

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        """Return the L1 distance."""
        self.seen += batch["index"].tolist()
        return torch.nn.functional.l1_loss(self.layer(batch["observation.state"]), batch["action"])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the L1 distance."""
        loss = self.training_step(batch, batch_idx)
        self.log("val/loss", loss, batch_size=len(batch["index"]))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer."""
        return torch.optim.SGD(self.parameters(), 1e-6)


def make_trainer(root: Path, **kwargs: Any) -> Trainer:
    """Return a quiet CPU trainer."""
    return Trainer(
        accelerator="cpu",
        default_root_dir=root,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"max_epochs": 1, "logger": False, **kwargs},
    )


def test_the_constructor_touches_nothing_and_is_picklable() -> None:
    """A datamodule of a dataset that does not exist can be made, pickled and restored."""
    datamodule = LeRobotDataModule(repo_id="nobody/nothing", root="s3://nowhere/x", val_split=0.1)
    restored = pickle.loads(pickle.dumps(datamodule))  # noqa: S301 - our own bytes
    assert restored.hparams == datamodule.hparams
    assert restored.train_dataset is None


def test_hyperparameters_are_plain_values() -> None:
    """What lands in hparams.yaml is plain, and leaves out what policies name alike."""
    datamodule = LeRobotDataModule(root=PUSHT, image_transforms=torch.neg)
    assert datamodule.hparams["root"] == str(PUSHT)
    assert {type(value) for value in datamodule.hparams.values()} <= {
        str, int, float, bool, list, dict, type(None)
    }  # fmt: skip
    assert not {"image_transforms", "use_imagenet_stats"} & datamodule.hparams.keys()


def test_ranges_and_arrays_become_plain_hyperparameters() -> None:
    """A checkpoint with them must load with weights_only=True."""
    deltas = {"action": np.arange(3) / 10}
    datamodule = LeRobotDataModule(root=PUSHT, episodes=np.arange(2), delta_timestamps=deltas)
    assert datamodule.hparams["episodes"] == [0, 1]
    assert {type(e) for e in datamodule.hparams["episodes"]} == {int}
    assert {type(d) for d in datamodule.hparams["delta_timestamps"]["action"]} == {float}
    assert LeRobotDataModule(root=PUSHT, episodes=range(2)).hparams["episodes"] == [0, 1]


@pytest.mark.parametrize("episodes", [[99], [-1], []])
def test_episodes_that_do_not_exist_are_named_also_with_a_split(episodes: list[int]) -> None:
    """The split does not hide which episodes are wrong."""
    with pytest.raises(DatasetError, match="6 episodes: pass distinct"):
        LeRobotDataModule(root=PUSHT, episodes=episodes, val_split=0.5).setup()


@pytest.mark.parametrize("prefix", ["file://", "file:", "file://localhost", "local://"])
def test_file_urls_are_local_folders(prefix: str) -> None:
    """Every form of a file URL is read in place, and nothing is copied."""
    datamodule = LeRobotDataModule(root=f"{prefix}{PUSHT}", episodes=[0])
    datamodule.setup()
    assert datamodule.train_dataset is not None
    assert datamodule.train_dataset.root == PUSHT


def test_validating_without_validation_data_is_refused(tmp_path: Path) -> None:
    """Validating alone on nothing says what to do, and does not end as if all were well."""
    with pytest.raises(DatasetError, match=r"val_split=0\.1"):
        make_trainer(tmp_path).validate(Linear(), LeRobotDataModule(root=PUSHT, num_workers=0))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "repo_id="),
        ({"root": "x", "val_split": 1.0}, r"val_split must be in \[0, 1\), got 1.0"),
        ({"root": "x", "val_split": -0.1}, r"val_split must be in \[0, 1\), got -0.1"),
        ({"root": "x", "train_batch_size": 0}, "train_batch_size must be at least 1, got 0"),
        ({"root": "x", "val_batch_size": 0}, "val_batch_size must be at least 1, got 0"),
        ({"root": "x", "num_workers": -1}, 'num_workers must be at least 0 or "auto", got -1'),
        ({"root": "x", "episodes": "all"}, "episodes must be a list of .* got 'all'"),
    ],
)
def test_wrong_arguments_are_refused_at_once(kwargs: dict[str, Any], message: str) -> None:
    """Arguments are checked before anything is downloaded, and named with their value."""
    with pytest.raises(DatasetError, match=message):
        LeRobotDataModule(**kwargs)


def test_training_batches_are_shuffled_whole_and_collated() -> None:
    """The training loader drops an incomplete batch; batches are dicts of stacked samples."""
    datamodule = LeRobotDataModule(
        root=PUSHT, train_batch_size=64, num_workers=0, delta_timestamps={"action": [0.0, 0.1, 0.2]}
    )
    datamodule.setup("fit")
    loader = datamodule.train_dataloader()
    assert isinstance(loader.sampler, EpochSampler)
    batches = list(loader)
    assert len(batches) == 300 // 64
    batch = batches[0]
    assert batch["observation.image"].shape == (64, 3, 96, 96)
    assert batch["action"].shape == (64, 3, 2)
    assert batch["action_is_pad"].dtype == torch.bool
    assert batch["task"] == ["Push the T-shaped block onto the T-shaped target."] * 64


def test_the_split_holds_out_whole_episodes_and_is_the_same_whatever_the_global_seed() -> None:
    """Every rank draws the same held-out episodes, whichever way its generators were seeded."""
    splits = []
    for seed in (1, 2):
        random.seed(seed)
        torch.manual_seed(seed)
        datamodule = LeRobotDataModule(root=PUSHT, val_split=0.34)
        datamodule.setup("fit")
        assert datamodule.train_dataset is not None
        assert datamodule.val_dataset is not None
        splits.append((datamodule.train_dataset.episodes, datamodule.val_dataset.episodes))
    (train, val), other = splits
    assert (train, val) == other
    assert sorted([*train, *val]) == [0, 1, 2, 3, 4, 5]
    assert len(val) == 2


def test_another_split_seed_holds_out_other_episodes() -> None:
    """`val_split_seed` chooses the held-out episodes, among `episodes` if given."""
    held_out = set()
    for seed in range(8):
        datamodule = LeRobotDataModule(
            root=PUSHT, episodes=[1, 3, 5], val_split=0.1, val_split_seed=seed
        )
        datamodule.setup("fit")
        assert datamodule.val_dataset is not None
        held_out.update(datamodule.val_dataset.episodes or [])
    assert held_out == {1, 3, 5}


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    """One episode cannot be split."""
    datamodule = LeRobotDataModule(root=PUSHT, episodes=[2], val_split=0.5)
    with pytest.raises(DatasetError, match=r"val_split=0\.5 leaves no training episode of 1"):
        datamodule.setup("fit")


def test_only_training_samples_are_transformed() -> None:
    """Held-out and test images are as recorded."""
    kwargs: dict[str, Any] = {"root": PUSHT, "image_transforms": torch.zeros_like}
    split = LeRobotDataModule(val_split=0.2, **kwargs)
    whole = LeRobotDataModule(**kwargs)
    for datamodule in (split, whole):
        datamodule.setup()
        assert datamodule.train_dataset is not None
        assert datamodule.test_dataset is not None
        assert not datamodule.train_dataset[0]["observation.image"].any()
        assert datamodule.test_dataset[0]["observation.image"].any()
    assert split.test_dataset is split.val_dataset
    assert len(whole.test_dataset or ()) == 300


def test_offsets_set_on_one_dataset_do_not_change_another() -> None:
    """Training and test dataset share their rows, not their frame offsets."""
    datamodule = LeRobotDataModule(root=PUSHT)
    datamodule.setup()
    assert datamodule.train_dataset is not None
    assert datamodule.test_dataset is not None
    datamodule.train_dataset.delta_indices = {"action": [0, 1]}
    assert datamodule.test_dataset.delta_indices is None


def test_too_few_frames_for_the_ranks_are_refused_with_numbers(tmp_path: Path) -> None:
    """A batch that no rank can fill is refused, with frames, batch size, ranks and a fix."""
    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=301, num_workers=0)
    with pytest.raises(DatasetError, match=r"300 training frames .*=301 .*1 ranks.*=300 or less"):
        make_trainer(tmp_path).fit(Linear(), datamodule)


def test_the_share_of_each_rank_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A batch that one process can fill may be too large for four."""
    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=76, num_workers=0)
    datamodule.setup("fit")
    datamodule.trainer = make_trainer(tmp_path)
    datamodule.train_dataloader()
    monkeypatch.setattr(type(datamodule.trainer), "world_size", 4)
    with pytest.raises(DatasetError, match="on each of 4 ranks"):
        datamodule.train_dataloader()


def test_lightning_trains_without_validation_and_without_a_warning(tmp_path: Path) -> None:
    """No `val_split` means that validation is skipped, silently, sanity check included."""
    model = Linear()
    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=50, num_workers=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_trainer(tmp_path, num_sanity_val_steps=2).fit(model, datamodule)
    messages = [str(warning.message) for warning in caught]
    assert not [m for m in messages if "length" in m or "val_dataloader" in m], messages
    assert sorted(model.seen) == list(range(300))


def test_lightning_validates_on_the_held_out_episodes(tmp_path: Path) -> None:
    """With `val_split` the validation metric is there, and training never sees those frames."""
    model = Linear()
    datamodule = LeRobotDataModule(root=PUSHT, val_split=0.2, num_workers=0)
    trainer = make_trainer(tmp_path, num_sanity_val_steps=0, check_val_every_n_epoch=2)
    trainer.fit(model, datamodule)
    assert datamodule.val_dataset is not None
    held_out = {int(datamodule.val_dataset[i]["index"]) for i in range(len(datamodule.val_dataset))}
    assert not held_out & set(model.seen)
    assert math.isfinite(trainer.validate(model, datamodule, verbose=False)[0]["val/loss"])
    assert math.isfinite(trainer.test(model, datamodule, verbose=False)[0]["val/loss"])


def test_hyperparameters_of_model_and_data_are_logged_together(tmp_path: Path) -> None:
    """hparams.yaml holds the datamodule's arguments as readable YAML."""
    datamodule = LeRobotDataModule(root=PUSHT, num_workers=0)
    trainer = make_trainer(tmp_path, logger=True, max_steps=1)
    trainer.fit(Linear(), datamodule)
    text = Path(str(trainer.log_dir), "hparams.yaml").read_text()
    assert f"root: {PUSHT}" in text
    assert "!!python" not in text


def test_a_run_that_resumes_with_another_dataset_is_warned(tmp_path: Path, v30: Path) -> None:
    """Copies are the same dataset; one that was recorded again is not, on whichever machine."""
    saved = tmp_path / "1.ckpt"
    trainer = make_trainer(tmp_path)
    trainer.fit(Linear(), LeRobotDataModule(root=PUSHT, train_batch_size=8, num_workers=0))
    trainer.save_checkpoint(saved)

    def warnings_of(function: str) -> list[str]:
        datamodule = LeRobotDataModule(root=v30, train_batch_size=8, num_workers=0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = getattr(make_trainer(tmp_path, max_steps=2), function)
            run(Linear(), datamodule=datamodule, ckpt_path=saved)
        return [str(each.message) for each in caught if "not the dataset" in str(each.message)]

    assert warnings_of("fit") == []
    stats = v30 / "meta/stats.json"
    stats.write_text(stats.read_text() + " ")
    (found,) = warnings_of("fit")
    assert found.startswith(f"{v30} is not the dataset that the checkpoint was trained on")
    assert warnings_of("test") == []  # which may be of any dataset


def test_workers_outlive_an_epoch_only_if_there_are_any() -> None:
    """`persistent_workers` is dropped for zero workers, which torch would refuse."""
    datamodule = LeRobotDataModule(root=PUSHT, num_workers=0, persistent_workers=True)
    datamodule.setup()
    assert not datamodule.train_dataloader().persistent_workers
    datamodule.num_workers = 1
    assert datamodule.train_dataloader().persistent_workers


def test_page_locked_memory_is_used_only_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """`pin_memory="auto"` follows CUDA; a plain value is kept."""
    datamodule = LeRobotDataModule(root=PUSHT, num_workers=0)
    datamodule.setup()
    for available in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda value=available: value)
        assert datamodule.train_dataloader().pin_memory is available
    datamodule.pin_memory = True
    assert datamodule.train_dataloader().pin_memory


def test_the_order_of_an_epoch_is_returned_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few indices are made at once, they are the same ones, also on several ranks."""
    sampler = EpochSampler(range(100), num_replicas=3, rank=1, seed=5)  # type: ignore[arg-type] # of any class
    whole = list(sampler)
    monkeypatch.setattr(loader, "INDICES_AT_ONCE", 7)
    assert list(sampler) == whole
    assert len(set(whole)) == 34


def test_a_subclass_may_repeat_its_samples() -> None:
    """What a dataset calls its samples is its own matter if it has its own length."""

    class Repeated(LeRobotDataset):
        def __len__(self) -> int:
            return 3 * super().__len__()

        def __getitem__(self, index: Any) -> dict[str, Any]:
            return super().__getitem__(index % super().__len__())

    datamodule = LeRobotDataModule(root=PUSHT, num_workers=0, train_batch_size=4)
    datamodule.train_dataset = Repeated(root=PUSHT)
    datamodule.val_dataset = Repeated(root=PUSHT)
    assert len(next(iter(datamodule.train_dataloader()))["index"]) == 4
    assert len(next(iter(datamodule.val_dataloader()))["index"]) == 4


def test_a_complete_dataset_is_shuffled_once_per_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to be downloaded is only worked out if something may be missing."""
    orders, upcoming = [], EpochSampler.upcoming

    def count(*args: Any) -> torch.Tensor:
        orders.append(upcoming(*args))
        return orders[-1]

    monkeypatch.setattr(EpochSampler, "upcoming", count)
    datamodule = LeRobotDataModule(root=PUSHT, num_workers=0)
    datamodule.setup()
    next(iter(datamodule.train_dataloader()))
    assert len(orders) == 1


def test_prepare_data_brings_the_rows_of_a_remote_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs once per node; after it, only videos are downloaded, when they are needed first."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path))
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{PUSHT}/", "/prepared", recursive=True)
    datamodule = LeRobotDataModule(root="memory://prepared", val_split=0.2, num_workers=0)
    datamodule.prepare_data()
    assert len(list(tmp_path.rglob("*.parquet"))) == 3
    assert not list(tmp_path.rglob("*.mp4"))
    filesystem.rm("/prepared/data", recursive=True)
    datamodule.setup("fit")
    filesystem.rm("/prepared", recursive=True)
    assert next(iter(datamodule.train_dataloader()))["action"].shape == (16, 2)


def test_the_command_line_can_set_every_argument() -> None:
    """Jsonargparse resolves the types of all arguments."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(LeRobotDataModule, "data")
    parsed = parser.parse_args(
        [
            "--data=getiaction.data.LeRobotDataModule",
            f"--data.root={PUSHT}",
            "--data.num_workers=auto",
            "--data.pin_memory=false",
            "--data.episodes=[0,1]",
            '--data.delta_timestamps={"action": [0, 0.1]}',
            '--data.image_transforms={"class_path": "torch.nn.Dropout", "init_args": {"p": 0.2}}',
        ]
    )
    datamodule = parser.instantiate(parsed).data
    assert datamodule.episodes == [0, 1]
    assert datamodule.pin_memory is False
    assert isinstance(datamodule.image_transforms, torch.nn.Dropout)
    assert datamodule.delta_timestamps == {"action": [0.0, 0.1]}
