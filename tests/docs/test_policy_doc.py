"""docs/policy.md: every command and every Python block of it runs, on data made on the spot."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer as LightningTrainer
from reader import ONE_STEP, shell
from safetensors.torch import save_file

from getiaction.data import LeRobotDataset
from getiaction.policies import ACT

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/policy.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
TRAIN, BUILD, ACTING, ENSEMBLE, PRETRAINED, OWN = (c for kind, c in BLOCKS if kind == "python")
FIT, FIT_OWN = (code for kind, code in BLOCKS if kind == "bash")
SMALL = {"dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "image_size": None}


def run(block: str, directory: Path, env: dict[str, str]) -> str:
    """Run a block as a script; return what it prints."""
    (directory / "block.py").write_text(block)
    words = [sys.executable, "block.py"]
    done = subprocess.run(
        words, cwd=directory, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def with_checkpoint(tmp_path: Path, shortened: dict[str, str]) -> Path:
    """A directory with the checkpoint that the page loads: a small ACT for the page's dataset."""
    (snapshot,) = Path(shortened["HF_HOME"]).glob("hub/*/snapshots/*")
    chunks = {"chunk_size": 4, "n_action_steps": 4, "pretrained_backbone_weights": None}
    policy = ACT(**chunks, **SMALL, dataset_stats=LeRobotDataset(root=snapshot).stats)
    trainer = LightningTrainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    trainer.strategy.connect(policy)
    trainer.save_checkpoint(tmp_path / "pusht.ckpt")
    return tmp_path


def test_act_trains(tmp_path, shortened):
    """The first block trains ACT in the experiment's directory; see `shortened`."""
    run(TRAIN, tmp_path, shortened)
    hparams = (tmp_path / "experiments/pusht_act_v1/version_0/hparams.yaml").read_text()
    assert "chunk_size: 50" in hparams


def test_command_trains(tmp_path, shortened, monkeypatch):
    """The command does what the block does."""
    for name, value in shortened.items():
        monkeypatch.setenv(name, value)
    result = shell(FIT.strip() + ONE_STEP, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "n_action_steps: 50" in next(tmp_path.rglob("hparams.yaml")).read_text()


def test_defaults_in_the_table_are_acts():
    """Each row has an argument of ACT with its default."""
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \|", PAGE, re.MULTILINE)
    parameters = inspect.signature(ACT).parameters
    assert len(rows) == 8
    assert [eval(default) for _, default in rows] == [parameters[n].default for n, _ in rows]  # noqa: S307 - the page is ours


def test_policy_is_built_from_statistics(tmp_path, shortened):
    """Before, it has no parameters; then it has the shapes of the dataset."""
    assert "'observation.state': (2,)" in run(BUILD, tmp_path, shortened)


def test_policy_acts(with_checkpoint, shortened):
    """One action per frame, in the dataset's units, and again with temporal ensembling."""
    printed = run(ACTING + "print(action.shape)", with_checkpoint, shortened)
    assert printed == "torch.Size([1, 2])\n"
    loop = ACTING.partition("policy.reset()")[2]
    imports = "from getiaction.data import LeRobotDataset\n"
    averaging = f"{imports}{ENSEMBLE}policy.reset(){loop}print(action.shape)"
    assert run(averaging, with_checkpoint, shortened) == printed


def test_lerobots_directory_is_loaded(tmp_path, shortened):
    """A directory of lerobot's, at the path on the page, gives a policy with its shape."""
    reference = torch.load(ROOT / "tests/data/act/act_small_env.pt")
    shapes = {"observation.state": ("STATE", 4), "observation.environment_state": ("ENV", 6)}
    inputs = {key: {"type": kind, "shape": [size]} for key, (kind, size) in shapes.items()}
    outputs = {"action": {"type": "ACTION", "shape": [2]}}
    modes = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    config = {"type": "act", "input_features": inputs, "output_features": outputs}
    config |= {"normalization_mapping": modes, **reference["config"]}
    directory = tmp_path / "outputs/train/act/pretrained_model"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    weights = {f"model.{name}": value.clone() for name, value in reference["state_dict"].items()}
    save_file(weights, directory / "model.safetensors")
    sizes = {"observation.state": 4, "action": 2}
    stats = {f"{k}.{n}": torch.ones(s) for k, s in sizes.items() for n in ("mean", "std")}
    save_file(stats, directory / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    printed = run(PRETRAINED + "print(policy.model.config.dim_model)", tmp_path, shortened)
    assert printed == f"{reference['config']['dim_model']}\n"


def test_own_policy_trains_and_its_checkpoint_loads(tmp_path):
    """The file on the page, under the name on the page, is trained by the command on the page."""
    (tmp_path / "my_policy.py").write_text(OWN)
    result = shell(FIT_OWN, tmp_path)
    assert result.returncode == 0, result.stderr
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    load = f"MLPPolicy.load_from_checkpoint('{checkpoint}').hparams['lr']"
    result = shell(f'python -c "from my_policy import MLPPolicy; print({load})"', tmp_path)
    assert result.stdout == "0.003\n", result.stderr
