"""PolicyDatasetInteraction: policies made without shapes are built, checked and fed."""

import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from getiaction.data.observation import find_policy_dataset, find_policy_datasets
from getiaction.train import PolicyDatasetInteraction, Trainer

DeltaIndices = dict[str, list[int]] | None

CHUNK = [0, 1, 2]


class _Frames(Dataset):
    """Eight frames of a known dataset; a sample's action has a time dimension if asked for."""

    fps = 10.0
    features: ClassVar = {
        key: {} for key in ("observation.state", "action", "next.reward", "index")
    }
    stats: ClassVar = {
        "observation.state": {"type": "STATE", "shape": [2]},
        "action": {"type": "ACTION", "shape": [3]},
    }

    def __init__(self, delta_indices: DeltaIndices = None) -> None:
        self.delta_indices = delta_indices

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        offsets = (self.delta_indices or {}).get("action")
        shape = (3,) if offsets is None else (len(offsets), 3)
        return {"observation.state": torch.ones(2), "action": torch.full(shape, index / 8)}


class _FramesModule(LightningDataModule):
    """A datamodule that keeps its datasets where the callback looks for them."""

    def __init__(self, delta_indices: DeltaIndices = None, **loader_options: int) -> None:
        super().__init__()
        self.delta_indices, self.loader_options = delta_indices, loader_options

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's signature
        self.train_dataset = _Frames(self.delta_indices)
        self.val_dataset = Subset(_Frames(self.delta_indices), range(4))

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train_dataset, batch_size=4, **self.loader_options)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val_dataset, batch_size=4, **self.loader_options)

    test_dataloader = predict_dataloader = val_dataloader


class _LazyNet(LightningModule):
    """A policy of two layers that are made when the dataset is known."""

    observation_delta_indices = None
    action_delta_indices = CHUNK
    reward_delta_indices: ClassVar = [0]

    def __init__(self) -> None:
        super().__init__()
        self.net, self.builds, self.shapes = None, 0, set()

    def build_model(self, dataset_stats: Mapping[str, Any]) -> None:
        if self.net is None:
            self.builds += 1
            inputs, outputs = (
                dataset_stats[k]["shape"][0] for k in ("observation.state", "action")
            )
            self.net = torch.nn.Sequential(torch.nn.Linear(inputs, 4), torch.nn.Linear(4, outputs))
            self.initial = [parameter.detach().clone() for parameter in self.net.parameters()]

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        self.shapes.add(tuple(batch["action"].shape[1:]))
        output = self.net(batch["observation.state"]).unsqueeze(1)
        return (output - batch["action"]).pow(2).mean()

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A Trainer for one quiet epoch on the CPU that writes nothing."""
    return make_trainer(tmp_path)


def make_trainer(root: Path | str, **options: Any) -> Trainer:
    """Make a Trainer for one quiet epoch on the CPU."""
    defaults = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "default_root_dir": root,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**(defaults | options))


def test_every_parameter_of_a_lazily_built_policy_is_trained(trainer: Trainer) -> None:
    """The policy is built once, early enough for the optimizer to have all its parameters."""
    policy = _LazyNet()
    trainer.fit(policy, _FramesModule())
    assert policy.builds == 1
    trained = list(policy.net.parameters())
    assert len(trained) == 4
    assert all(not torch.equal(a, b) for a, b in zip(trained, policy.initial, strict=True))


def test_samples_have_the_frames_that_the_policy_wants(trainer: Trainer) -> None:
    """Delta indices reach training and validation data; None leaves observations alone."""
    policy, data = _LazyNet(), _FramesModule()
    trainer.fit(policy, data)
    assert policy.shapes == {(3, 3)}
    wanted = {"action": CHUNK, "next.reward": [0]}
    assert data.train_dataset.delta_indices == wanted
    assert data.val_dataset.dataset.delta_indices == wanted


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_evaluation_loaders_with_workers_have_the_policys_frames(
    trainer: Trainer, stage: str
) -> None:
    """Outside of fit, too, the dataset is set before workers copy it, and the policy is built."""
    policy = _LazyNet()
    getattr(trainer, stage)(policy, _FramesModule(num_workers=2))
    assert policy.shapes == {(3, 3)}


def test_persistent_workers_reloads_sanity_checks_and_a_second_fit(tmp_path: Path) -> None:
    """Workers that outlive epochs and loaders that are made anew all see the policy's frames."""
    data = _FramesModule(num_workers=2, persistent_workers=True)
    for _ in range(2):
        policy = _LazyNet()
        options = {"num_sanity_val_steps": 1, "reload_dataloaders_every_n_epochs": 1}
        make_trainer(tmp_path, max_epochs=2, **options).fit(policy, data)
        assert policy.shapes == {(3, 3)}


def test_bare_loaders_reused_by_a_policy_of_another_chunk(tmp_path: Path) -> None:
    """Persistent workers of bare loaders do not keep the frames of the policy before."""
    loader = DataLoader(_Frames(), batch_size=4, num_workers=1, persistent_workers=True)
    for chunk in (CHUNK, [0, 1]):
        policy = _LazyNet()
        policy.action_delta_indices = chunk
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the frames change is what is wanted here
            make_trainer(tmp_path).fit(policy, loader)
        assert policy.shapes == {(len(chunk), 3)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda frames: DataLoader(frames, batch_size=4),
        lambda frames: DataLoader(Subset(Subset(frames, range(6)), range(4)), batch_size=4),
        lambda frames: {"a": DataLoader(frames, batch_size=4)},
        lambda frames: [DataLoader(frames, batch_size=4)],
        lambda frames: CombinedLoader([DataLoader(frames, batch_size=4)], "max_size"),
    ],
    ids=["loader", "subset", "dict", "list", "combined"],
)
def test_bare_dataloaders_are_looked_through(
    trainer: Trainer, wrap: Callable[[Dataset], object]
) -> None:
    """A known dataset is found in whatever collection of loaders it was handed over."""
    frames = _Frames()
    trainer._data_connector.attach_dataloaders(_LazyNet(), train_dataloaders=wrap(frames))
    assert find_policy_dataset(trainer) is frames


def test_policy_is_built_from_bare_dataloaders(trainer: Trainer) -> None:
    """fit(policy, loader, [val loaders]) needs no datamodule."""
    policy, validation = _LazyNet(), _Frames()
    trainer.fit(policy, DataLoader(_Frames(), batch_size=4), [DataLoader(validation, batch_size=4)])
    assert policy.shapes == {(3, 3)}
    assert validation.delta_indices["action"] == CHUNK


def test_loaders_of_this_call_count_not_the_datamodule_of_the_last(trainer: Trainer) -> None:
    """A datamodule that the Trainer remembers from fit is not taken for validate's data."""
    policy, frames = _LazyNet(), _Frames()
    trainer.fit(policy, _FramesModule())
    trainer.validate(policy, DataLoader(frames, batch_size=4), verbose=False)
    assert find_policy_datasets(trainer) == [frames]
    assert frames.delta_indices["action"] == CHUNK


def test_resume_of_a_lazily_built_policy(tmp_path: Path) -> None:
    """A checkpoint's weights and optimizer state go into a policy that is made without shapes."""
    trainer = make_trainer(tmp_path)
    trainer.fit(_LazyNet(), _FramesModule())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, uninterrupted = _LazyNet(), _LazyNet()
    make_trainer(tmp_path, max_epochs=2).fit(
        resumed, _FramesModule(), ckpt_path=tmp_path / "last.ckpt"
    )
    uninterrupted.build_model(_Frames.stats)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    uninterrupted.load_state_dict(checkpoint["state_dict"])
    make_trainer(tmp_path, max_epochs=1).fit(uninterrupted, _FramesModule())
    for a, b in zip(resumed.parameters(), uninterrupted.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_policy_wins_over_other_delta_timestamps_and_says_so_once(trainer: Trainer) -> None:
    """A different request for a key is named once, with both sides; None is the frame alone."""
    policy, data = (
        _LazyNet(),
        _FramesModule({"action": [0, 1, 2, 3, 4, 5], "observation.state": [0]}),
    )
    with pytest.warns(UserWarning, match=r"delta_timestamps") as record:
        trainer.fit(policy, data)
    messages = [str(w.message) for w in record if "delta_timestamps" in str(w.message)]
    state, action = sorted(messages, key=lambda message: "'action'" in message)
    assert "[0] of 'observation.state'" in state
    assert "[0, 1, ..., 5] (6 of them) of 'action'" in action
    assert "LazyNet needs [0, 1, 2]" in action
    assert data.train_dataset.delta_indices["action"] == CHUNK
    assert "observation.state" not in data.train_dataset.delta_indices


def test_equal_delta_timestamps_are_no_news(trainer: Trainer) -> None:
    """Asking for just what the policy wants gives no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*delta_timestamps.*")
        trainer.fit(_LazyNet(), _FramesModule({"action": CHUNK}))


def test_a_parameter_that_no_optimizer_has_is_an_error(trainer: Trainer) -> None:
    """A policy that would stay partly untrained does not start, and the parameters are named."""

    class _Forgetful(_LazyNet):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net[0].parameters(), lr=0.1)

    with pytest.raises(MisconfigurationException, match=r"2 parameters of _Forgetful.*net\.1\.wei"):
        trainer.fit(_Forgetful(), _FramesModule())


def test_frozen_parameters_need_no_optimizer(trainer: Trainer) -> None:
    """A parameter that requires no gradient may be left out."""

    class _Frozen(_LazyNet):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            self.net[1].requires_grad_(False)
            return torch.optim.SGD(self.net[0].parameters(), lr=0.1)

    trainer.fit(_Frozen(), _FramesModule())


def test_a_policy_with_parameters_needs_no_known_dataset(trainer: Trainer) -> None:
    """Data of any other kind is left to a policy that is built already."""
    policy = _LazyNet()
    policy.build_model(_Frames.stats)
    batch = {"observation.state": torch.ones(2), "action": torch.ones(1, 3)}
    trainer.fit(policy, DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    assert policy.shapes == {(3,)}


def test_models_that_are_no_policies_are_left_alone(trainer: Trainer) -> None:
    """Of an ordinary module neither the optimizers nor the dataset are looked at."""

    class _Ordinary(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)

        def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
            return self.used(batch["observation.state"]).sum()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.used.parameters(), lr=0.1)

    frames = _Frames()
    trainer.fit(_Ordinary(), DataLoader(frames, batch_size=4))
    assert frames.delta_indices is None


def test_the_callback_works_in_lightnings_own_trainer(tmp_path: Path) -> None:
    """It needs nothing of our Trainer."""
    from lightning import Trainer as LightningTrainer

    policy = _LazyNet()
    trainer = LightningTrainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        fast_dev_run=True,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=PolicyDatasetInteraction(),
    )
    trainer.fit(policy, _FramesModule())
    assert policy.shapes == {(3, 3)}


@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
def test_lazily_built_policies_are_equal_on_all_ranks(tmp_path: Path, launcher: str) -> None:
    """Ranks that build with different seeds train one model, whoever starts them."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_policy_dataset_interaction import _FramesModule, _LazyNet, make_trainer\n"
        "torch.manual_seed(int(os.environ.get('LOCAL_RANK', 0)))\n"
        f"trainer = make_trainer({str(tmp_path)!r}, **{_ddp_options(launcher)})\n"
        "policy = _LazyNet()\n"
        "trainer.fit(policy, _FramesModule())\n"
        "result = {'world': trainer.world_size, 'weights': policy.state_dict()}\n"
        f"torch.save(result, {str(tmp_path)!r} + f'/rank{{trainer.global_rank}}.pt')\n"
    )
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [sys.executable, *(torchrun if launcher == "torchrun" else []), str(script)]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path)
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1)]
    assert ranks[0]["world"] == ranks[1]["world"] == 2
    for name, weight in ranks[0]["weights"].items():
        assert torch.equal(weight, ranks[1]["weights"][name]), name


def _ddp_options(launcher: str) -> dict[str, Any]:
    return {} if launcher == "torchrun" else {"devices": 2, "strategy": "ddp"}
