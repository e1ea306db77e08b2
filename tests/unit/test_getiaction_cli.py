"""The getiaction command: one YAML, errors without tracebacks, the same under torchrun."""

import builtins
import gc
import os
import subprocess
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from getiaction import cli
from getiaction.cli import CLI
from getiaction.train import trainer as trainer_module
from getiaction.train.unique_keys import duplicate_key

MODULE = """\
import torch
from lightning.pytorch import LightningDataModule, LightningModule

class Line(LightningModule):
    def __init__(self, lr: float = 0.1, width: int = 2):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(width, 1)

    def training_step(self, batch, _):
        return self.layer(batch).mean()

    validation_step = test_step = predict_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)

class Ones(LightningDataModule):
    def __init__(self, rows: int = 8):
        super().__init__()
        self.rows = rows

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.ones(self.rows, 2), batch_size=2)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader
"""

CONFIG = {
    "seed_everything": 3,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 1,
        "experiment_name": "line",
        "enable_progress_bar": False,
        "enable_model_summary": False,
    },
    "model": {"class_path": "my_policy.Line", "init_args": {"lr": 0.2}},
    "data": "my_policy.Ones",
}

ACT_CONFIG = {
    "trainer": {**CONFIG["trainer"], "experiment_name": "act", "log_every_n_steps": 1},
    "model": {
        "class_path": "ACT",
        "init_args": {
            "chunk_size": 4,
            "n_action_steps": 4,
            "pretrained_backbone_weights": None,
            "image_size": None,
            "dim_model": 16,
            "n_heads": 2,
            "dim_feedforward": 16,
        },
    },
    "data": {
        "class_path": "DotDataModule",
        "init_args": {
            "num_episodes": 2,
            "image_size_px": 16,
            "num_workers": 0,
            "train_batch_size": 8,
        },
    },
}


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory with a module of the user's and two configs."""
    (tmp_path / "my_policy.py").write_text(MODULE)
    (tmp_path / "line.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "act.yaml").write_text(yaml.safe_dump(ACT_CONFIG))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "my_policy", raising=False)
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path / "cache"))
    return tmp_path


def _run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["getiaction", *words])
    return cli.main()


def _run_python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_fit_with_config_and_override_from_the_shell(directory: Path) -> None:
    """A module beside the config is found, dotted flags win, the resolved config is saved."""
    words = ("fit", "--config", "line.yaml", "--trainer.max_epochs=2", "--model.lr", "0.5")
    done = _run_python("-m", "getiaction.cli", *words)
    assert done.returncode == 0, done.stderr
    run = directory / "experiments/line/version_0"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_everything"] == 3
    assert config["trainer"]["max_epochs"] == 2
    assert config["model"]["init_args"] == {"lr": 0.5, "width": 2}
    assert (run / "hparams.yaml").is_file()
    assert list((run / "checkpoints").iterdir()) == [run / "checkpoints/epoch=1-step=8.ckpt"]


def test_saved_config_repeats_the_run(directory: Path) -> None:
    """config.yaml of one run, given back, trains the same weights."""
    CLI(["fit", "--config", "line.yaml"])
    CLI(["fit", "--config", "experiments/line/version_0/config.yaml"])
    weights = [
        torch.load(path, weights_only=True)["state_dict"]["layer.weight"]
        for path in sorted((directory / "experiments/line").rglob("*.ckpt"))
    ]
    assert len(weights) == 2
    assert torch.equal(*weights)


def test_command_line_as_list_or_config_as_dict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may hand over either; its own sys.argv is nobody's business."""
    monkeypatch.setattr(sys, "argv", ["launcher", "--nodes", "2"])
    assert CLI(["fit", "--config", "line.yaml"]).trainer.global_step == 4
    assert CLI({"subcommand": "fit", "fit": CONFIG}).trainer.global_step == 4


def test_run_false_only_builds() -> None:
    """Trainer, model and data are made and not run; there is no subcommand then."""
    built = CLI(["--config", "line.yaml"], run=False)
    assert built.trainer.global_step == 0
    assert built.model.hparams["lr"] == 0.2
    assert built.datamodule.rows == 8


@pytest.mark.parametrize("subcommand", ["validate", "test", "predict"])
def test_other_subcommands(subcommand: str) -> None:
    """validate, test and predict take the same config."""
    assert CLI([subcommand, "--config", "line.yaml"]).trainer.state.fn == subcommand


def test_print_config_is_a_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """--print_config ends with exit code 0, and what it prints can be used."""
    with pytest.raises(SystemExit) as end:
        _run_main(monkeypatch, "fit", "--config", "line.yaml", "--print_config")
    assert not end.value.code
    (directory / "full.yaml").write_text(capsys.readouterr().out)
    assert CLI(["fit", "--config", "full.yaml"]).trainer.global_step == 4


def test_act_by_short_name_fits_resumes_and_is_tested(directory: Path) -> None:
    """A policy made without shapes trains from YAML; its checkpoint resumes and is tested."""
    trainer = CLI(["fit", "--config", "act.yaml"]).trainer
    checkpoint = str(next(directory.rglob("*.ckpt")))
    steps = trainer.global_step
    assert steps > 0
    resume = ["fit", "--config", "act.yaml", "--ckpt_path", checkpoint, "--trainer.max_epochs=2"]
    assert CLI(resume).trainer.global_step == 2 * steps
    tested = CLI(["test", "--config", "act.yaml", "--ckpt_path", checkpoint])
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    for name, value in tested.model.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_checkpoint_that_a_script_has_saved_resumes_in_a_spec() -> None:
    """Such a checkpoint does not name its model's class, and the arguments in it are not read."""
    script = (
        "import my_policy\n"
        "from lightning.pytorch import Trainer\n"
        "trainer = Trainer(max_epochs=1, accelerator='cpu', enable_progress_bar=False)\n"
        "trainer.fit(my_policy.Line(lr=0.3), my_policy.Ones())\n"
        "trainer.save_checkpoint('script.ckpt')\n"
    )
    done = _run_python("-c", script)
    assert done.returncode == 0, done.stderr
    words = ["fit", "--config", "line.yaml", "--ckpt_path=script.ckpt", "--trainer.max_epochs=3"]
    with pytest.warns(UserWarning, match=r"keeps the model's arguments of the spec"):
        resumed = CLI(words)
    assert resumed.trainer.global_step == 3 * 4
    assert resumed.model.hparams["lr"] == 0.2


def test_two_ranks_under_torchrun(directory: Path) -> None:
    """The same config, started by torchrun, is one run of two ranks in one directory."""
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "getiaction.cli")
    done = _run_python(*torchrun, "fit", "--config", "line.yaml", "--trainer.default_root_dir=out")
    assert done.returncode == 0, done.stderr
    runs = list((directory / "out/line").iterdir())
    assert [run.name for run in runs] == ["version_0"]
    # 8 rows in batches of 2 are 4 steps for one rank, 2 for each of two.
    assert [path.name for path in runs[0].rglob("*.ckpt")] == ["epoch=0-step=2.ckpt"]
    assert (runs[0] / "config.yaml").is_file()


def test_help_does_not_wait_for_lightning() -> None:
    """The first page is printed without importing what takes seconds."""
    code = (
        "import sys; from getiaction.cli import main; code = main();"
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'lightning')))"
    )
    done = _run_python("-c", code, "--help")
    assert done.returncode == 0
    assert "{fit,validate,test,predict}" in done.stdout


def test_no_search_for_garbage_interrupts_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was imported is left out of those that follow, also of the one at the exit."""
    searches: dict[str, bool] = {}

    def note(name: str, *rest: Any, **others: Any) -> Any:
        searches[name] = gc.isenabled()
        return real_import(name, *rest, **others)

    real_import = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", note)
    monkeypatch.setattr(gc, "freeze", lambda: searches.update(frozen="torch" in searches))
    assert _run_main(monkeypatch, "fit", "--no_such_key=1") == 2
    assert cli.CLI
    assert searches["torch"] is searches["getiaction.train.cli"] is False
    assert gc.isenabled()
    assert searches["frozen"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--config", "line.yaml", "--trainer.max_epoch=2"],
            "unknown key 'trainer.max_epoch'.\nValid keys, nearest first: trainer.max_epochs,",
        ),
        (
            ["--config", "line.yaml", "--model.lrr=2"],
            "unknown key 'lrr' of my_policy.Line.\nValid keys, nearest first: lr, width",
        ),
        (
            ["--config", "typo.yaml"],
            "unknown key 'trainers.max_epochs'.\nValid keys, nearest first",
        ),
        (["--config", "broken.yaml"], "in broken.yaml, line 2"),
        (["--config", "absent.yaml"], "config: File does not exist: "),
        (["--config", "line.yaml", "--trainer.max_epochs=two"], "Given value: two"),
        (["--model", "Lime"], "model: unknown class 'Lime'."),
        ([], "no model given.\nUse --model ACT"),
        (["--config", "line.yaml", "--trainer.experiment_name=a/b"], "experiment_name='a/b'"),
        (["--config", "line.yaml", "--ckpt_path=no.ckpt"], "ckpt_path=no.ckpt does not exist."),
        (
            ["--config", "line.yaml", "--ckpt_path=memory://me:hunter2@b/no.ckpt"],
            "ckpt_path=memory://***@b/no.ckpt does not exist.\nLook for its right name: see memory",
        ),
        (
            ["--config", "line.yaml", "--ckpt_path=nowhere://me:hunter2@b/no.ckpt"],
            "ckpt_path=nowhere://***@b/no.ckpt cannot be read: Protocol not known",
        ),
        (["--config", "line.yaml", "--trainer.devices=0"], "devices='0'"),
        (["--model", "ACT", "--data", "LeRobotDataModule"], "repo_id"),
        (["--model", "ACT", "--data", "LeRobotDataModule", "--data.root", "nowhere"], "nowhere"),
        (["--model", "my_policy.Line"], "train_dataloader"),
        (["--config", "act.yaml", "--optimizer", "AdamW"], "--model.optimizer_lr"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_explained_without_traceback(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    directory: Path,
    words: list[str],
    message: str,
) -> None:
    """Exit code 2 and an error that has the user's own words and what to write instead."""
    (directory / "typo.yaml").write_text("trainers:\n  max_epochs: 2\nmodel: my_policy.Line\n")
    (directory / "broken.yaml").write_text("trainer: [\n")
    assert _run_main(monkeypatch, "fit", *words) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error[error.index("error: ") :]
    assert "Traceback" not in error


def test_unknown_subcommand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A subcommand that there is not, or none, is a usage error that lists the four."""
    assert _run_main(monkeypatch, "fti") == 2
    assert "'fit', 'validate', 'test', 'predict'" in capsys.readouterr().err
    assert _run_main(monkeypatch) == 2
    assert "{fit,validate,test,predict}" in capsys.readouterr().err


def test_errors_in_the_users_own_code_keep_their_traceback(directory: Path) -> None:
    """What a training step raises goes through as it is."""
    module = MODULE.replace("return self.layer(batch).mean()", "raise ValueError('mine')")
    (directory / "my_policy.py").write_text(module)
    with pytest.raises(ValueError, match="mine"):
        CLI(["fit", "--config", "line.yaml"])


def test_in_process_mistakes_raise() -> None:
    """A program that hands over args gets an exception, not an exit."""
    with pytest.raises(ArgumentError, match=r"trainer\.max_epochs"):
        CLI(["fit", "--config", "line.yaml", "--trainer.max_epoch=2"])
    with pytest.raises(ArgumentError, match=r"trainer\.max_epochs"):
        CLI({"subcommand": "fit", "fit": {**CONFIG, "trainer": {"max_epoch": 2}}})


def test_a_config_of_the_users_is_never_overwritten(directory: Path) -> None:
    """A config.yaml that lies where the run's would go is kept, with a warning."""
    own = directory / "config.yaml"
    own.write_text((directory / "line.yaml").read_text())
    before = own.read_text()
    here = [
        f"--trainer.{v}" for v in ("logger=false", "default_root_dir=.", "experiment_name=null")
    ]
    with pytest.warns(UserWarning, match=r"config\.yaml already exists and is kept"):
        CLI(["fit", "--config", "config.yaml", *here])
    assert own.read_text() == before


def test_a_logger_without_a_directory_is_no_obstacle(directory: Path) -> None:
    """Its config.yaml is saved in the directory of the experiment."""
    (directory / "own.py").write_text(
        "from lightning.pytorch.loggers.logger import DummyLogger\n"
        "class Silent(DummyLogger):\n    save_dir = None\n"
    )
    CLI(["fit", "--config", "line.yaml", "--trainer.logger=own.Silent"])
    assert (directory / "experiments/line/config.yaml").is_file()


def test_config_of_a_launchers_run_is_that_of_the_last_attempt(
    monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    """In GETIACTION_RUN_DIR config.yaml lies beside hparams.yaml and is written anew."""
    monkeypatch.setenv("GETIACTION_RUN_DIR", str(directory / "run"))
    for epochs in (1, 2):
        trainer_module._trainers.clear()  # an attempt is another process
        CLI(["fit", "--config", "line.yaml", f"--trainer.max_epochs={epochs}"])
        config = yaml.safe_load((directory / "run/config.yaml").read_text())
        assert config["trainer"]["max_epochs"] == epochs
    assert (directory / "run/hparams.yaml").is_file()
    assert not (directory / "experiments").exists()


def test_predictions_are_saved_and_found(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the run's directory, with the path on stdout; a writer of the user replaces that."""
    words = ["predict", "--config", "line.yaml"]
    CLI(words)
    folder = Path("experiments/line/version_0/predictions")
    assert capsys.readouterr().out.splitlines()[-1] == f"predictions: {folder}"
    saved = torch.load(folder / "rank_0.pt", weights_only=True)
    assert len(saved["predictions"]) == len(saved["batch_indices"]) > 0
    (directory / "writer.py").write_text(
        "from lightning.pytorch.callbacks import BasePredictionWriter\n"
        "class Writer(BasePredictionWriter):\n"
        "    def __init__(self): super().__init__('batch')\n"
        "    def write_on_batch_end(self, *_): print('mine')\n"
    )
    CLI([*words, "--trainer.callbacks+=writer.Writer"])
    assert "mine" in capsys.readouterr().out
    assert not (directory / "experiments/line/version_1/predictions").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("model: A\ntrainer: {}\nmodel: B\n", "'model' is set in line 1 and again in line 3"),
        ("trainer:\n  a: 1\n  a: 2\n", "'a' is set in line 2 and again in line 3"),
        ("x: &x {a: 1}\ny: &y {<<: *x, a: 2}\nz: {<<: *y, a: 3}\n", None),
        ("a: [\n", None),
    ],
)
def test_key_that_is_set_twice_is_refused(directory: Path, text: str, found: str | None) -> None:
    """As the launcher does; a merged key may be overridden."""
    path = directory / "twice.yaml"
    path.write_text(text)
    assert duplicate_key(path) == found
    if found:
        with pytest.raises(ArgumentError, match=f"twice.yaml: {found}"):
            CLI(["fit", "--config=twice.yaml"])
