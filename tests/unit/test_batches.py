"""Batches are read at once, and their images are bytes until they are on the device."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from getiaction.data import Collate, LeRobotDataModule, LeRobotDataset
from getiaction.data.batch import ByteImages
from getiaction.data.loader import BatchLoader
from getiaction.policies import ACT
from getiaction.train import Trainer

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT = DATA / "pusht_like_v30"
IMAGE = "observation.image"
EPOCH: dict[str, Any] = {"max_steps": -1, "max_epochs": 1, "limit_train_batches": 2}


class Recorder(LightningModule):
    """Keeps the batches that its steps get."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.batches: list[dict[str, Any]] = []

    def training_step(self, batch: dict[str, Any], _: int) -> Tensor:
        """Keep the batch, and use none of it."""
        self.batches.append(batch)
        return self.layer.weight.sum()

    def validation_step(self, batch: dict[str, Any], _: int) -> None:
        """Keep the batch."""
        self.batches.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer."""
        return torch.optim.SGD(self.parameters(), 1e-6)


class OneByOne(LeRobotDataset):
    """Returns samples of its own, which look like those of its base."""

    def __getitem__(self, index: Any) -> dict[str, Any]:
        return super().__getitem__(index)


class Mixed(LeRobotDataset):
    """Has tensors of every kind in its batches, which follow each other at odd places."""

    def read_batch(self, indices: Any) -> dict[str, Any]:
        """Add them to the batch."""
        others = {
            "bits": torch.tensor([True, False, True]),
            "double": torch.arange(5, dtype=torch.float64),
            "none": torch.empty(0, 3),
            "large": torch.arange(2**18 + 1, dtype=torch.float32),
            "turned": torch.arange(6).view(2, 3).T,
        }
        return super().read_batch(indices) | others


class Telling(LeRobotDataset):
    """Tells whether its images are where the parent process of a loader finds them."""

    def read_batch(self, indices: Any) -> dict[str, Any]:
        """Add the answer to the batch."""
        batch = super().read_batch(indices)
        return batch | {"is_shared": torch.tensor(batch[IMAGE].pixels.is_shared())}


def make_trainer(root: Path, **options: Any) -> Trainer:
    """Return a quiet trainer of two steps on the CPU."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "default_root_dir": root, "max_steps": 2}
    return Trainer(accelerator="cpu", **{**quiet, **options})


def spy(trainer: Trainer) -> list[dict[str, Any]]:
    """Return a list to which the batches are added that the trainer is about to move."""
    seen, move = [], trainer.strategy.batch_to_device

    def batch_to_device(batch: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(batch))
        return move(batch, *args, **kwargs)

    trainer.strategy.batch_to_device = batch_to_device  # type: ignore[method-assign]
    return seen


def assert_equal(batch: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare batches bit for bit, images after they were moved."""
    assert list(batch) == list(expected)
    for key, value in expected.items():
        found = batch[key].to("cpu") if isinstance(batch[key], ByteImages) else batch[key]
        if isinstance(value, Tensor):
            assert (found.dtype, found.shape) == (value.dtype, value.shape), key
            assert found.stride() == value.stride(), key
            assert torch.equal(found, value), key
        else:
            assert found == value, key


@pytest.mark.parametrize(
    ("name", "deltas"),
    [
        ("pusht_like_v30", {}),
        ("pusht_like_v30", {"action": [-1, 0, 1, 2], IMAGE: [-3, 0]}),
        ("pusht_like_v30", {"action": [0], IMAGE: [0]}),
        ("aloha_like_v21", {"action": [0, 1, 2], "observation.images.top": [0, 7]}),
        ("many_features_v30", {}),
        ("many_features_v30", {"language": [0, 1]}),
        ("images_only_v30", {}),
        ("images_only_v30", {IMAGE: [-1, 0]}),
        ("images_only_v30", {IMAGE: [0]}),
        ("h264_v30", {}),
    ],
)
def test_a_batch_equals_the_samples(name: str, deltas: dict[str, list[int]]) -> None:
    """Keys, their order, types, shapes and every number are those of samples that are collated."""
    dataset = LeRobotDataset(root=DATA / name)
    dataset.delta_indices = {key: value for key, value in deltas.items() if key in dataset.features}
    last = len(dataset) - 1
    indices = [last, 3, 0, 3, last // 2, -1]
    expected = Collate(dataset.object_keys)([dataset[index] for index in indices])
    batch = dataset.read_batch(indices)
    assert_equal(batch, expected)
    cameras = [key for key, value in batch.items() if isinstance(value, ByteImages)]
    assert cameras == [
        key for key, ft in dataset.features.items() if ft["dtype"] in {"video", "image"}
    ]
    with pytest.raises(IndexError, match=f"{last + 1} frames"):
        dataset.read_batch([0, last + 1])


def test_loaders_of_a_trainer_carry_bytes_and_models_get_numbers(tmp_path: Path) -> None:
    """A quarter of the bytes leaves the loader; every step gets the samples as they are."""
    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=4, num_workers=0, val_split=0.2)
    trainer, model = make_trainer(tmp_path, limit_val_batches=1, **EPOCH), Recorder()
    moved = spy(trainer)
    trainer.fit(model, datamodule)
    assert len(moved) == len(model.batches) == 3
    for before, after in zip(moved, model.batches, strict=True):
        assert before[IMAGE].pixels.dtype == torch.uint8
        assert before[IMAGE].pixels.nbytes == after[IMAGE].nbytes / 4
        assert after[IMAGE].dtype == torch.float32
        numbers = after["index"].tolist()
        plain = LeRobotDataset(root=PUSHT)
        assert_equal(after, Collate(frozenset())([plain[number] for number in numbers]))


def test_images_have_the_type_of_the_precision(tmp_path: Path) -> None:
    """As for other inputs, bf16-true makes them bfloat16, rounded from float32."""
    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=4, num_workers=0)
    trainer, model = make_trainer(tmp_path, precision="bf16-true", max_steps=1), Recorder()
    moved = spy(trainer)
    trainer.fit(model, datamodule)
    (batch,) = model.batches
    assert isinstance(moved[0][IMAGE], ByteImages)
    expected = LeRobotDataset(root=PUSHT)[int(moved[0]["index"][1])]
    assert batch[IMAGE].dtype == batch["action"].dtype == torch.bfloat16
    assert torch.equal(batch[IMAGE][1], expected[IMAGE].to(torch.bfloat16))


@pytest.mark.parametrize("hook", ["on_before_batch_transfer", "transfer_batch_to_device"])
@pytest.mark.parametrize("owner", [Recorder, LeRobotDataModule])
def test_hooks_before_the_device_get_numbers(tmp_path: Path, owner: type, hook: str) -> None:
    """Code of model or datamodule that sees batches on the host sees ordinary tensors."""
    seen = []

    def look(_: object, batch: dict[str, Any], *__: object) -> dict[str, Any]:
        seen.append(type(batch[IMAGE]))
        return batch

    kind = type("Looking", (owner,), {hook: look})
    model = kind() if owner is Recorder else Recorder()
    data = kind if owner is LeRobotDataModule else LeRobotDataModule
    make_trainer(tmp_path).fit(model, data(root=PUSHT, train_batch_size=4, num_workers=0))
    assert seen == [Tensor] * 2


def test_loaders_outside_of_a_trainer_return_numbers(tmp_path: Path) -> None:
    """Loops of the user's own get float32 before, and after a fit with the same datamodule."""
    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=4, num_workers=0)
    datamodule.setup()
    loaders = [datamodule.train_dataloader(), datamodule.test_dataloader()]
    make_trainer(tmp_path).fit(Recorder(), datamodule)
    for loader in (*loaders, datamodule.train_dataloader()):
        assert type(next(iter(loader))[IMAGE]) is Tensor
    model = Recorder()
    make_trainer(tmp_path).fit(model, datamodule.train_dataloader())
    assert model.batches[0][IMAGE].dtype == torch.float32


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_equals_training_on_samples(tmp_path: Path, num_workers: int) -> None:
    """ACT has the same weights, bit for bit, with random transforms and without."""
    small: dict[str, Any] = {"chunk_size": 4, "n_action_steps": 4, "dim_model": 16, "n_heads": 2}
    small |= {"dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1}
    small |= {"image_size": None, "pretrained_backbone_weights": None}
    for transform in (None, add_noise):
        weights = []
        for kind in (LeRobotDataset, OneByOne):
            seed_everything(3)
            datamodule = LeRobotDataModule(
                root=PUSHT, train_batch_size=4, num_workers=num_workers, image_transforms=transform
            )
            datamodule.setup()
            datamodule.train_dataset.__class__ = kind
            policy, trainer = ACT(**small), make_trainer(tmp_path)
            moved = spy(trainer)
            trainer.fit(policy, datamodule)
            bytewise = kind is LeRobotDataset and transform is None
            assert isinstance(moved[0][IMAGE], ByteImages) is bytewise
            weights.append(policy.state_dict())
        assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())


def add_noise(image: Tensor) -> Tensor:
    """Draw random numbers for an image, and use them."""
    return (image + 0.1 * torch.rand(image.shape)).clamp(0, 1)


def test_a_subclass_with_samples_of_its_own_is_read_sample_by_sample() -> None:
    """What a user's `__getitem__` returns is what the loader returns."""

    class Marked(LeRobotDataset):
        def __getitem__(self, index: Any) -> dict[str, Any]:
            return super().__getitem__(index) | {"mark": 7}

    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=4, num_workers=0)
    datamodule.setup()
    datamodule.train_dataset.__class__ = Marked
    loader = datamodule.train_dataloader()
    assert next(iter(loader))["mark"].tolist() == [7] * 4
    assert isinstance(datamodule.test_dataset, LeRobotDataset)


def test_a_loader_process_decodes_into_shared_memory() -> None:
    """The parent process finds the images there, and nothing is copied to send them."""
    datamodule = LeRobotDataModule(root=PUSHT, train_batch_size=4)
    datamodule.setup()
    datamodule.train_dataset.__class__ = Telling
    for num_workers in (0, 1):
        datamodule.num_workers = num_workers
        batch = next(iter(datamodule.train_dataloader()))
        assert bool(batch["is_shared"]) is bool(num_workers)


def test_a_loader_process_sends_small_tensors_in_one_block() -> None:
    """Torch opens a connection for each storage; large tensors can be kept without the others."""
    datamodule = LeRobotDataModule(root=PUSHT, val_batch_size=4, num_workers=0)
    datamodule.setup()
    datamodule.test_dataset.__class__ = Mixed
    expected = next(iter(datamodule.test_dataloader()))
    datamodule.num_workers = 1
    batch = next(iter(datamodule.test_dataloader()))
    assert_equal(batch, expected)
    tensors = {key: value for key, value in batch.items() if isinstance(value, Tensor)}
    blocks = {key: value.untyped_storage().data_ptr() for key, value in tensors.items()}
    alone = {"none", "large", "turned"}
    small = blocks.keys() - alone
    assert {"index", "timestamp", "action", "bits", "double"} < small
    assert len({blocks[key] for key in small}) == 1
    assert not {blocks[key] for key in alone} & {blocks[key] for key in small}
    for key in small:
        tensors[key].zero_()
        expected[key].zero_()
        assert_equal(batch, expected)


def test_collation_and_dataset_of_a_loader_serve_other_loaders() -> None:
    """A loader that is built of these parts, as in `getiaction-launch check`, is the same."""
    datamodule = LeRobotDataModule(root=PUSHT, val_batch_size=4, num_workers=0)
    datamodule.setup()
    loader = datamodule.test_dataloader()
    assert type(loader) is BatchLoader
    assert loader.dataset is datamodule.test_dataset
    own = DataLoader(loader.dataset, batch_size=4, collate_fn=loader.collate_fn)
    assert_equal(next(iter(loader)), next(iter(own)))


def test_images_are_pinned_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch pins a batch, the bytes are pinned, and stay images."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self + 1)  # there may be no GPU
    pinned = pin_memory({"a": ByteImages(torch.zeros(1, 2, 2, 3, dtype=torch.uint8))})
    assert pinned["a"].pixels.dtype == torch.uint8
    assert pinned["a"].pixels.unique().tolist() == [1]


def test_every_byte_is_divided_as_on_the_cpu() -> None:
    """All 256 values are those of a division of float32 by 255."""
    values = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1)
    found = ByteImages(values).to("cpu")
    assert torch.equal(found, values.permute(2, 0, 1).to(torch.float32) / 255)


def test_who_sees_bytes_can_calculate_with_them():
    """A callback that draws a batch, or a loader that is wrapped, takes them for a tensor."""
    pixels = torch.randint(256, (2, 4, 6, 3), dtype=torch.uint8)
    images = ByteImages(pixels)
    values = images.to("cpu")
    assert (len(images), images.shape, images.ndim, images.device.type) == (
        2,
        (2, 3, 4, 6),
        4,
        "cpu",
    )
    assert torch.equal(images * 2 - 1, values * 2 - 1)
    assert torch.equal(1 - images, 1 - values)
    assert torch.equal(torch.stack([images, images]), torch.stack([values, values]))
    assert torch.equal(
        torch.nn.functional.avg_pool2d(images, 2), torch.nn.functional.avg_pool2d(values, 2)
    )
    assert torch.equal(images[:, 0], values[:, 0])
    assert isinstance(images[0], ByteImages)
    assert torch.equal(images[0].permute(1, 2, 0), values[0].permute(1, 2, 0))
    assert np.array_equal(np.asarray(images), values.numpy())
    assert [image.mean().item() for image in images] == [image.mean().item() for image in values]
    assert torch.equal(images.to("cpu", non_blocking=True), values)
    assert torch.equal(pickle.loads(pickle.dumps(images)).to("cpu"), values)  # noqa: S301 - our own
