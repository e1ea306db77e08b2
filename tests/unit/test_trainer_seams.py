"""Each private name of Lightning that getiaction uses still does what it is used for."""

import typing
import warnings
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from getiaction import lightning_seams as seams

pytestmark = pytest.mark.usefixtures("directory")

QUIET = {
    "accelerator": "cpu",
    "fast_dev_run": True,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Trainer(lightning.Trainer):
    """A Trainer with a parameter that Lightning's does not have; variables go by its name."""

    def __init__(self, *, own: int = 0, precision: str = "32-true", **options: object) -> None:
        self.own = own
        seams.init_without_environment_defaults(self, precision=precision, **options)


@pytest.mark.parametrize(
    ("parameter", "seam"),
    [
        ("precision", seams.Precision | None),
        ("default_root_dir", seams.PathOrUrl | None),
        ("plugins", seams.Plugin | list[seams.Plugin] | None),
    ],
)
def test_types_are_those_of_lightnings_parameters(parameter: str, seam: object) -> None:
    """A type that Lightning changes must be changed in our signature too."""
    assert typing.get_type_hints(lightning.Trainer.__init__)[parameter] == seam


def test_environment_defaults_are_those_of_the_subclass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables of its own parameters are read, literals are evaluated, strangers are ignored."""
    for name, value in {"OWN": "3", "PRECISION": "16-mixed", "OTHER": "1"}.items():
        monkeypatch.setenv(f"PL_TRAINER_{name}", value)
    assert seams.environment_defaults(Trainer) == {"own": 3, "precision": "16-mixed"}


def test_lightnings_constructor_is_called_without_its_decorator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It initialises the Trainer, and does not read the environment again."""
    monkeypatch.setenv("PL_TRAINER_OWN", "7")
    trainer = Trainer(accelerator="cpu", min_epochs=2)
    assert (trainer.own, trainer.min_epochs) == (0, 2)
    with pytest.raises(TypeError, match="'own'"):  # else the seam is not needed
        lightning.Trainer.__init__(trainer, accelerator="cpu")


def test_checkpoint_of_requeueing_is_found(directory: Path) -> None:
    """The newest hpc_ckpt_<N>.ckpt in default_root_dir is the one that Lightning would resume."""
    trainer = lightning.Trainer(accelerator="cpu", default_root_dir=directory)
    assert seams.requeue_checkpoint(trainer) is None
    for number in (2, 10):
        (directory / f"hpc_ckpt_{number}.ckpt").touch()
    assert seams.requeue_checkpoint(trainer) == str(directory / "hpc_ckpt_10.ckpt")


@pytest.mark.parametrize("value", [True, False])
def test_use_distributed_sampler_is_the_argument(value: bool) -> None:
    """The Trainer keeps the argument under this name."""
    trainer = lightning.Trainer(accelerator="cpu", use_distributed_sampler=value)
    assert seams.uses_distributed_sampler(trainer) is value


class _Recorder(BoringModel):
    """Looks at its Trainer's data in `setup`, the earliest hook that has a Trainer."""

    def setup(self, stage: str) -> None:
        del stage
        self.seen = seams.loop_data(self.trainer)


def test_dataloaders_are_seen_in_setup() -> None:
    """What `fit` was given is known before the loaders are set up, loop by loop."""
    train, val = (DataLoader(RandomDataset(32, 8)) for _ in range(2))
    model = _Recorder()
    lightning.Trainer(**QUIET).fit(model, train, val)
    assert model.seen[:3] == [train, val, val]
    assert model.seen[3:] == [model, model]


def test_datamodule_is_seen_in_setup_and_replaced_by_later_dataloaders() -> None:
    """All loops have the datamodule; `Trainer.datamodule` outlives the call, this does not."""
    model, data = _Recorder(), LightningDataModule.from_datasets(RandomDataset(32, 8))
    trainer = lightning.Trainer(**QUIET)
    trainer.fit(model, data)
    assert model.seen == [data] * 5
    loader = DataLoader(RandomDataset(32, 8))
    trainer.validate(model, loader, verbose=False)
    assert model.seen[2] is loader
    assert trainer.datamodule is data, "else the seam is not needed"


def test_warning_about_no_validation_data_is_silenced() -> None:
    """Lightning warns about an empty list of loaders, in these words."""
    for silence, expected in ((False, 1), (True, 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if silence:
                seams.silence_empty_validation_warning()
            lightning.Trainer(**QUIET).fit(BoringModel(), DataLoader(RandomDataset(32, 8)), [])
        assert len([w for w in caught if "across ranks is zero" in str(w.message)]) == expected


def test_event_file_is_closed_and_the_next_value_begins_another(directory: Path) -> None:
    """After a close, nothing is open until something is logged."""
    logger = TensorBoardLogger(directory, name="a")
    assert not seams.has_event_file(logger)
    for files in (1, 2):
        logger.log_metrics({"loss": 1.0}, step=0)
        assert seams.has_event_file(logger)
        seams.close_event_file(logger)
        assert not seams.has_event_file(logger)
        assert len(list(directory.rglob("events.out.tfevents.*"))) == files


def test_parsers_of_subcommands_know_their_keys() -> None:
    """`fit` has a parser with the Trainer's keys; a command that runs nothing has none."""
    seen = []

    class _CLI(LightningCLI):
        def parse_arguments(self, parser: object, args: object) -> None:
            seen.append(seams.subcommand_parsers(self))
            super().parse_arguments(parser, args)

        def before_instantiate_classes(self) -> None:
            raise SystemExit

    for run in (True, False):
        words = [*(["fit"] if run else []), "--trainer.accelerator=cpu"]
        with pytest.raises(SystemExit):
            _CLI(BoringModel, run=run, args=words)
    with_subcommands, without = seen
    assert "trainer.max_epochs" in with_subcommands["fit"].get_defaults().keys()  # noqa: SIM118 - a Namespace
    assert without == {}


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("32-true", torch.float32), ("bf16-true", torch.bfloat16), ("64-true", torch.float64)],
)
def test_type_of_inputs_is_that_of_the_precision(precision: str, dtype: torch.dtype) -> None:
    """A plugin converts numbers before they are moved."""
    trainer = lightning.Trainer(precision=precision, **QUIET)
    assert seams.input_dtype(trainer) == dtype


def test_who_sees_batches_before_they_are_moved_is_known() -> None:
    """Hooks of the model and of the datamodule count, and steps that take the iterator."""

    class Hook(BoringModel):
        def on_before_batch_transfer(self, batch: object, dataloader_idx: int) -> object:
            del dataloader_idx
            return batch

    class Iterating(BoringModel):
        def training_step(self, dataloader_iter: object) -> object:
            return super().training_step(next(dataloader_iter)[0], 0)

    class Data(LightningDataModule):
        def train_dataloader(self) -> DataLoader:
            answers.append(seams.sees_batches_before_transfer(self.trainer))
            return DataLoader(RandomDataset(32, 8))

    class Moving(Data):
        def transfer_batch_to_device(self, batch: object, *_: object) -> object:
            return batch

    answers: list[bool] = []
    models = [(BoringModel(), Data()), (Hook(), Data()), (Iterating(), Data())]
    for model, data in [*models, (BoringModel(), Moving())]:
        lightning.Trainer(**QUIET).fit(model, data)
    assert answers == [False, True, True, True]
