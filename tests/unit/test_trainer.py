"""The Trainer: its defaults, where its output goes, and how it follows torchrun and srun."""

import inspect
import os
import socket
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils.data import DataLoader

from getiaction.train import PolicyDatasetInteraction, Trainer
from getiaction.train.environment import follow_starter

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


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run every test in an empty working directory, as if outside of any SLURM job."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


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


def _set_torchrun(monkeypatch: pytest.MonkeyPatch, nodes: int, workers: int) -> None:
    variables = {
        "TORCHELASTIC_RUN_ID": "run",
        "GROUP_WORLD_SIZE": nodes,
        "LOCAL_WORLD_SIZE": workers,
        "WORLD_SIZE": nodes * workers,
        "RANK": 0,
        "LOCAL_RANK": 0,
        "GROUP_RANK": 0,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("devices", ["auto", -1, "-1", 2, "2"])
@pytest.mark.parametrize("num_nodes", [1, 3])
def test_nodes_and_devices_follow_torchrun(
    monkeypatch: pytest.MonkeyPatch, devices: str | int, num_nodes: int
) -> None:
    """Left at their defaults, or equal to torchrun's, they become torchrun's 3 x 2."""
    _set_torchrun(monkeypatch, nodes=3, workers=2)
    trainer = Trainer(accelerator="cpu", devices=devices, num_nodes=num_nodes)
    assert (trainer.num_nodes, trainer.num_devices, trainer.world_size) == (3, 2, 6)


@pytest.mark.parametrize("devices", [[2, 3], "2,3"], ids=str)
def test_chosen_devices_as_many_as_torchruns_are_kept(
    monkeypatch: pytest.MonkeyPatch, devices: list[int] | str
) -> None:
    """Which two GPUs to use is the user's word; that they are two is torchrun's too."""
    _set_torchrun(monkeypatch, nodes=3, workers=2)
    assert follow_starter(1, devices, None) == (3, devices)


@pytest.mark.parametrize(
    ("devices", "count"), [(4, 4), ("4", 4), ([0, 1, 2], 3), ("0,", 1)], ids=str
)
def test_devices_that_contradict_torchrun(
    monkeypatch: pytest.MonkeyPatch, devices: list[int] | str | int, count: int
) -> None:
    """The error has both numbers and the torchrun flag that would agree."""
    _set_torchrun(monkeypatch, nodes=1, workers=2)
    with pytest.raises(ValueError, match=rf"means {count} .* started 2 (.|\n)*node={count}$"):
        Trainer(devices=devices)


def test_nodes_that_contradict_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has both numbers and the torchrun flag that would agree."""
    _set_torchrun(monkeypatch, nodes=2, workers=1)
    with pytest.raises(ValueError, match=r"num_nodes=3, but torchrun started 2(.|\n)*--nnodes=3$"):
        Trainer(num_nodes=3)


def _srun(nodes: int, tasks_per_node: str, tasks: int, **others: object) -> dict[str, str]:
    """Return the variables of a task, as SLURM sets them where nothing but --ntasks is asked."""
    variables = {
        "SLURM_JOB_ID": 70041,
        "SLURM_JOB_NAME": "train.sh",
        "SLURM_NTASKS": tasks,
        "SLURM_NNODES": nodes,
        "SLURM_STEP_ID": 0,
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node,
        "SLURM_PROCID": 0,
        "SLURM_LOCALID": 0,
        "SLURM_NODEID": 0,
    }
    return {name: str(value) for name, value in (variables | others).items()}


def _set(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def _no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the Trainer itself sets in the environment."""
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")


@pytest.mark.usefixtures("_no_leak")
@pytest.mark.parametrize("devices", ["auto", -1, 2])
@pytest.mark.parametrize(
    "given", [{}, {"SLURM_NTASKS_PER_NODE": "2"}, {"SLURM_NTASKS_PER_NODE": "4"}]
)
def test_nodes_and_devices_follow_srun(
    monkeypatch: pytest.MonkeyPatch, devices: str | int, given: dict[str, str]
) -> None:
    """They become the step's 3 x 2, whether or not the job asked for tasks per node, or more."""
    _set(monkeypatch, _srun(3, "2(x3)", 6) | given)
    trainer = Trainer(accelerator="cpu", devices=devices)
    assert (trainer.num_nodes, trainer.num_devices, trainer.world_size) == (3, 2, 6)
    assert isinstance(trainer.strategy, DDPStrategy)


@pytest.mark.usefixtures("_no_leak")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 4}, r"devices=4 means 4 .* srun started 2 (.|\n)*--ntasks-per-node=4$"),
        ({"num_nodes": 2}, r"num_nodes=2, but srun started 3 \(SLURM_NNODES=3\)(.|\n)*--nodes=2$"),
    ],
)
def test_what_contradicts_srun(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    """The error has both numbers and the srun flag that would agree."""
    _set(monkeypatch, _srun(3, "2(x3)", 6))
    with pytest.raises(ValueError, match=message):
        Trainer(accelerator="cpu", **options)


@pytest.mark.usefixtures("_no_leak")
def test_unlike_numbers_of_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What --ntasks=3 makes of two nodes cannot train; the error says what would."""
    _set(monkeypatch, _srun(2, "2,1", 3))
    with pytest.raises(ValueError, match=r"3 tasks on 2 nodes \(2,1(.|\n)*--ntasks-per-node=1$"):
        Trainer(accelerator="cpu")


def test_outside_of_a_step_nothing_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in an interactive shell nor in a batch script that does without srun."""
    _set(monkeypatch, _srun(2, "2(x2)", 4, SLURM_NTASKS_PER_NODE=2))
    monkeypatch.delenv("SLURM_STEP_ID")
    for name in ("interactive", "train.sh"):
        monkeypatch.setenv("SLURM_JOB_NAME", name)
        trainer = Trainer(accelerator="cpu")
        assert (trainer.num_nodes, trainer.num_devices) == (1, 1)


def test_tasks_that_lightning_does_not_see_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """In salloc's shell the job is called "interactive", and each of srun's tasks trains alone."""
    _set(monkeypatch, _srun(2, "1(x2)", 2, SLURM_JOB_NAME="interactive", SLURM_STEP_NUM_TASKS=2))
    with pytest.warns(UserWarning, match=r"2 tasks, but each trains alone(.|\n)*--job-name=train"):
        trainer = Trainer(accelerator="cpu", strategy="ddp")
    assert isinstance(trainer.strategy.cluster_environment, LightningEnvironment)


@pytest.mark.usefixtures("_no_leak")
def test_lightnings_requeueing_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own environment is kept, in whichever way it is given, and so are other plugins."""
    _set(monkeypatch, _srun(1, "1", 1))
    other = TorchCheckpointIO()
    for plugins in (None, other, [other]):
        trainer = Trainer(accelerator="cpu", strategy="ddp", plugins=plugins)
        assert not trainer.strategy.cluster_environment.auto_requeue
        assert (trainer.strategy.checkpoint_io is other) is (plugins is not None)
    own = SLURMEnvironment()
    for options in (
        {"plugins": own},
        {"plugins": [own]},
        {"strategy": DDPStrategy(cluster_environment=own)},
    ):
        trainer = Trainer(accelerator="cpu", **({"strategy": "ddp"} | options))
        assert trainer.strategy.cluster_environment is own


@pytest.mark.usefixtures("_no_leak")
def test_a_strangers_checkpoint_is_not_resumed(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """What Lightning's requeueing leaves in a shared root belongs to some other run."""
    stray = directory / "experiments/hpc_ckpt_3.ckpt"
    stray.parent.mkdir()
    stray.touch()
    Trainer(accelerator="cpu")
    _set(monkeypatch, _srun(1, "1", 1))
    with pytest.raises(ValueError, match=rf"{stray.name} was left (.|\n)*mv .*{stray.name} "):
        Trainer(accelerator="cpu")
    Trainer(accelerator="cpu", plugins=SLURMEnvironment())


SCRIPT = """
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from getiaction.train import Trainer

trainer = Trainer(accelerator="cpu", experiment_name="a", max_steps=1, enable_progress_bar=False)
trainer.fit(BoringModel())
print("ranks", trainer.world_size, "in", trainer.log_dir)
"""


def test_tasks_of_srun_train_together_in_one_version(directory: Path) -> None:
    """An unchanged script, started as two tasks, is one run in one directory."""
    (directory / "train.py").write_text(SCRIPT)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    tasks = [
        subprocess.Popen(
            [sys.executable, "train.py"],
            env=os.environ | _srun(1, "2", 2, SLURM_PROCID=rank, SLURM_LOCALID=rank) | place,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        said = [task.communicate(timeout=100)[0] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [0, 0]
    assert all("ranks 2 in experiments/a/version_0" in each for each in said)
    assert [path.name for path in (directory / "experiments/a").iterdir()] == ["version_0"]


def test_run_directory_of_a_launcher(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """With GETIACTION_RUN_DIR all output lies directly in that directory, attempt after attempt."""
    monkeypatch.setenv("GETIACTION_RUN_DIR", str(directory / "run"))
    trainer = _fit(experiment_name="ignored", default_root_dir="elsewhere")
    assert _files(directory) == {f"run/{file}" for file in RUN_FILES}
    assert trainer.log_dir == str(directory / "run")


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
