"""The Trainer: its defaults, and where its output goes."""

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch import Tensor
from torch.utils.data import DataLoader

from getiaction.train import PolicyDatasetInteraction, Trainer

pytestmark = pytest.mark.usefixtures("directory")

QUIET = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class _Line(LightningModule):
    """An ordinary module of one layer with one hyper-parameter."""

    def __init__(self, lr: float = 0.1) -> None:  # noqa: ARG002 - saved as a hyper-parameter
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: Tensor, _: int) -> Tensor:
        if not self.trainer.barebones:
            self.log("loss", self.layer(batch).mean())
        return self.layer(batch).mean()

    def validation_step(self, batch: Tensor, _: int) -> None:
        self.layer(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])


def _fit(**options: Any) -> Trainer:
    trainer = Trainer(**(QUIET | options))
    loader = DataLoader(torch.ones(4, 2), batch_size=2)
    trainer.fit(_Line(), loader, loader)
    return trainer


def _files(root: Path) -> set[str]:
    """List the files under `root`, with events and checkpoints by their suffix."""
    paths = [path for path in root.rglob("*") if path.is_file()]
    names = {str(path.relative_to(root)) for path in paths}
    return {
        str(Path(n).parent / "*.tfevents") if "tfevents" in n else n.replace("epoch=0-step=2", "*")
        for n in names
    }


RUN_FILES = {"*.tfevents", "hparams.yaml", "checkpoints/*.ckpt"}


def test_signature_is_lightnings_plus_experiment_name() -> None:
    """Each parameter of Lightning's Trainer is there by name, with its type, keyword-only."""
    ours = inspect.signature(Trainer.__init__).parameters
    theirs = inspect.signature(lightning.Trainer.__init__).parameters
    assert set(ours) - set(theirs) == {"experiment_name"}
    assert set(theirs) <= set(ours)
    assert {p.kind for name, p in ours.items() if name != "self"} == {
        inspect.Parameter.KEYWORD_ONLY
    }
    our_types = typing.get_type_hints(Trainer.__init__)
    for name, hint in typing.get_type_hints(lightning.Trainer.__init__).items():
        assert our_types[name] == hint, name


def test_defaults_are_lightnings_but_for_the_documented_ones() -> None:
    """Only default_root_dir and num_sanity_val_steps have another default."""
    ours = inspect.signature(Trainer.__init__).parameters
    theirs = inspect.signature(lightning.Trainer.__init__).parameters
    changed = {n: ours[n].default for n, p in theirs.items() if ours[n].default != p.default}
    assert changed == {"default_root_dir": "experiments", "num_sanity_val_steps": 0}
    assert ours["experiment_name"].default is None
    assert ours["check_val_every_n_epoch"].default == 1


def test_every_parameter_is_described() -> None:
    """The class docstring, which --help shows, has a line for each parameter."""
    documented = {line.strip().partition(":")[0] for line in (Trainer.__doc__ or "").splitlines()}
    assert set(inspect.signature(Trainer).parameters) <= documented


def test_positional_arguments_are_refused() -> None:
    """Trainer("cpu") is a TypeError, not an experiment of that name."""
    with pytest.raises(TypeError):
        Trainer("cpu")


def test_output_tree_without_experiment_name(directory: Path) -> None:
    """Logs, hyper-parameters and checkpoints lie in experiments/lightning_logs/version_N."""
    _fit()
    _fit()
    root = directory / "experiments" / "lightning_logs"
    assert _files(root) == {f"version_{n}/{file}" for n in (0, 1) for file in RUN_FILES}


def test_output_tree_with_experiment_name(directory: Path) -> None:
    """The same under experiments/<name>/version_N, and nothing anywhere else."""
    _fit(experiment_name="pusht_act_v1")
    assert not _fit(experiment_name="pusht_act_v1").logger._default_hp_metric
    names = {f"pusht_act_v1/version_{n}/{file}" for n in (0, 1) for file in RUN_FILES}
    assert _files(directory) == {f"experiments/{name}" for name in names}
    hparams = directory / "experiments/pusht_act_v1/version_0/hparams.yaml"
    assert hparams.read_text() == "lr: 0.1\n"


@pytest.mark.parametrize("name", ["", " ", ".", "..", "../up", "/abs", "a/b", "a\\b"])
def test_experiment_name_is_a_plain_name(name: str) -> None:
    """What would leave default_root_dir, or nest, is refused with the way to write it."""
    with pytest.raises(
        ValueError, match=r"experiment_name=(.|\n)*default_root_dir='experiments/aloha'"
    ):
        Trainer(experiment_name=name)


@pytest.mark.parametrize(
    "as_root", [str, Path, lambda path: f"file://{path}", lambda path: f"file://localhost{path}"]
)
def test_default_root_dir_as_text_path_or_file_url(
    tmp_path: Path, as_root: Callable[[Path], str | Path]
) -> None:
    """A local directory may be given as a string, a Path, or a file:// URL."""
    trainer = Trainer(**QUIET, default_root_dir=as_root(tmp_path / "out"), experiment_name="a")
    assert trainer.default_root_dir == str(tmp_path / "out")
    assert trainer.log_dir == str(tmp_path / "out/a/version_0")


def test_default_root_dir_as_remote_url(directory: Path) -> None:
    """A URL is kept, and logs and checkpoints go to that storage."""
    trainer = _fit(default_root_dir="memory://trainer-test", experiment_name="a")
    assert trainer.log_dir == "memory://trainer-test/a/version_0"
    assert trainer.checkpoint_callback.best_model_path.startswith("memory://trainer-test/a/")
    assert _files(directory) == set()


def test_home_directory_and_none(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """~ is the home directory, None the working directory, as in Lightning."""
    monkeypatch.setenv("HOME", str(directory / "home"))
    trainer = Trainer(**QUIET, default_root_dir="~/out", experiment_name="a")
    assert trainer.logger.save_dir == str(directory / "home/out")
    assert Trainer(**QUIET, default_root_dir=None).default_root_dir == str(directory)


def test_without_logger(directory: Path) -> None:
    """logger=False writes checkpoints only; experiment_name then is their folder."""
    _fit(logger=False)
    _fit(logger=False, experiment_name="a")
    expected = {"experiments/checkpoints/*.ckpt", "experiments/a/checkpoints/*.ckpt"}
    assert _files(directory) == expected


def test_own_loggers_keep_their_places(directory: Path) -> None:
    """One logger or several are used as they are, whatever the experiment is called."""
    loggers: list[Logger] = [CSVLogger("csv", name="n"), TensorBoardLogger("tb", name="n")]
    assert _fit(logger=loggers, experiment_name="a").loggers == loggers
    assert "csv/n/version_0/checkpoints/*.ckpt" in _files(directory)
    assert not (directory / "experiments").exists()
    assert _fit(logger=loggers[0]).loggers == loggers[:1]


def test_wandb_logger(directory: Path) -> None:
    """WandbLogger logs to its project; checkpoints lie in its run's folder."""
    logger = WandbLogger(project="robot", offline=True)
    _fit(logger=logger)
    logger.experiment.finish()
    assert f"robot/{logger.version}/checkpoints/*.ckpt" in _files(directory)
    assert any(name.endswith(".wandb") for name in _files(directory))


def test_fast_dev_run_writes_nothing(directory: Path) -> None:
    """One batch of each loop, no logs and no checkpoints, with an experiment name too."""
    trainer = _fit(fast_dev_run=True, experiment_name="a")
    assert trainer.global_step == 1
    assert _files(directory) == set()


def test_overfit_batches() -> None:
    """The number of batches is Lightning's to count."""
    assert _fit(overfit_batches=1).global_step == 1


def test_barebones(directory: Path) -> None:
    """Barebones mode runs, with an experiment name too, and writes nothing."""
    options = {k: v for k, v in QUIET.items() if k != "log_every_n_steps"}
    trainer = Trainer(**options, barebones=True, experiment_name="a")
    trainer.fit(_Line(), DataLoader(torch.ones(4, 2), batch_size=2))
    assert trainer.loggers == []
    assert _files(directory) == set()


def test_arguments_reach_lightning() -> None:
    """A parameter that the Trainer does not look at has its effect all the same."""
    trainer = Trainer(**QUIET, max_steps=7, accumulate_grad_batches=3, gradient_clip_val=0.5)
    assert (trainer.max_steps, trainer.accumulate_grad_batches) == (7, 3)
    assert trainer.gradient_clip_val == 0.5
    with pytest.raises(MisconfigurationException, match="gradient_clip_algorithm"):
        Trainer(gradient_clip_algorithm="nrom")


@pytest.mark.parametrize("many", [True, False], ids=["list", "single"])
def test_policy_dataset_interaction_is_added_once(many: bool) -> None:
    """It comes before the user's callbacks, whose list stays as it was; theirs is not doubled."""
    own, other = PolicyDatasetInteraction(), Callback()
    given = [other, own] if many else own
    found = [c for c in Trainer(callbacks=given).callbacks if type(c) is PolicyDatasetInteraction]
    assert found == [own]

    given = [other] if many else other
    callbacks = Trainer(callbacks=given).callbacks
    assert isinstance(callbacks[0], PolicyDatasetInteraction)
    assert callbacks[1] is other
    assert given == ([other] if many else other)


def test_own_model_checkpoint_is_kept() -> None:
    """A ModelCheckpoint of the user's is the only one."""
    checkpoint = ModelCheckpoint("mine", save_last=True)
    assert Trainer(callbacks=checkpoint).checkpoint_callbacks == [checkpoint]


def test_environment_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """PL_TRAINER_* variables are defaults, for experiment_name too; arguments win."""
    monkeypatch.setenv("PL_TRAINER_MAX_EPOCHS", "3")
    monkeypatch.setenv("PL_TRAINER_EXPERIMENT_NAME", "from_env")
    assert Trainer().max_epochs == 3
    assert Trainer().logger.name == "from_env"
    assert Trainer(max_epochs=5, experiment_name="arg").max_epochs == 5
    assert Trainer(experiment_name="arg").logger.name == "arg"


def test_run_directory_of_a_launcher(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """With GETIACTION_RUN_DIR all output lies directly in that directory, attempt after attempt."""
    monkeypatch.setenv("GETIACTION_RUN_DIR", str(directory / "run"))
    trainer = _fit(experiment_name="ignored", default_root_dir="elsewhere")
    assert _files(directory) == {f"run/{file}" for file in RUN_FILES}
    assert trainer.log_dir == str(directory / "run")


def test_further_trainers_of_a_run_have_folders_of_their_own(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """The first Trainer of a process writes to the run, and no other overwrites its files."""
    monkeypatch.setenv("GETIACTION_RUN_DIR", str(directory / "run"))
    trainers = [_fit() for _ in range(3)]
    folders = ["run/", "run/trainer_1/", "run/trainer_2/"]
    assert _files(directory) == {folder + file for folder in folders for file in RUN_FILES}
    assert [f"{trainer.log_dir}/" for trainer in trainers] == [f"{directory}/{f}" for f in folders]


@pytest.mark.parametrize("logger", [False, "csv"])
def test_run_directory_has_the_checkpoints_of_every_logger(
    monkeypatch: pytest.MonkeyPatch, directory: Path, logger: bool | str
) -> None:
    """Without a logger or with one's own, checkpoints still go to the run's directory."""
    monkeypatch.setenv("GETIACTION_RUN_DIR", str(directory / "run"))
    trainer = _fit(logger=CSVLogger("csv") if logger else False, experiment_name="ignored")
    assert "run/checkpoints/*.ckpt" in _files(directory)
    assert not any(name.endswith(".ckpt") and "run" not in name for name in _files(directory))
    assert trainer.log_dir == str(directory / "run")
