"""ACT starts from lerobot's directories and from its own checkpoints."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import save_file

from getiaction.policies import ACT

REFERENCE = Path(__file__).parents[1] / "data" / "act" / "act_small_env.pt"
FEATURES = {
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [4]},
        "observation.environment_state": {"type": "ENV", "shape": [6]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}
STATS = {
    "observation.state": {"mean": torch.arange(4.0), "std": torch.arange(1.0, 5.0)},
    "action": {"mean": torch.tensor([10.0, 20.0]), "std": torch.tensor([2.0, 0.5])},
}


@pytest.fixture
def reference() -> dict[str, Any]:
    """The small lerobot model with its weights, batch and predictions."""
    return torch.load(REFERENCE)


@pytest.fixture
def directory(tmp_path: Path, reference: dict[str, Any]) -> Path:
    """What lerobot 0.4 writes, without statistics."""
    mapping = {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
    config = {"type": "act", **reference["config"], **FEATURES, "normalization_mapping": mapping}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(weights(reference), tmp_path / "model.safetensors")
    return tmp_path


def weights(reference: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights under the names that they have in lerobot's file."""
    return {f"model.{name}": value.clone() for name, value in reference["state_dict"].items()}


def edit_config(directory: Path, **changes: object) -> None:
    """Change entries of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_predicts_as_lerobot(policy: ACT, reference: dict[str, Any]) -> None:
    """Compare predictions in the dataset's units."""
    batch = dict(reference["batch"])
    state, action = STATS["observation.state"], STATS["action"]
    batch["observation.state"] = batch["observation.state"] * state["std"] + state["mean"]
    expected = reference["pred_eval"] * action["std"] + action["mean"]
    torch.testing.assert_close(policy.predict_action_chunk(batch), expected, atol=1e-4, rtol=1e-5)


def add_processor(directory: Path) -> None:
    """Statistics as lerobot 0.4 keeps them: in a file of the preprocessor."""
    tensors = {f"{key}.{name}": v for key, stat in STATS.items() for name, v in stat.items()}
    save_file(tensors, directory / "policy_preprocessor_step_3_normalizer_processor.safetensors")


def add_buffers(directory: Path, reference: dict[str, Any]) -> None:
    """Statistics as lerobot 0.3 keeps them: buffers beside the weights."""
    tensors = weights(reference)
    for module, key in (("normalize_inputs", "observation.state"), ("normalize_targets", "action")):
        for name, value in STATS[key].items():
            tensors[f"{module}.buffer_{key.replace('.', '_')}.{name}"] = value
    save_file(tensors, directory / "model.safetensors")


@pytest.mark.parametrize("source", ["processor", "buffers", "argument"])
def test_lerobots_directory_predicts_as_lerobot(
    directory: Path, reference: dict[str, Any], source: str
) -> None:
    """Statistics come from lerobot 0.4's or 0.3's files, or else from dataset_stats."""
    stats = None
    if source == "processor":
        add_processor(directory)
    elif source == "buffers":
        add_buffers(directory, reference)
    else:
        features = {**FEATURES["input_features"], **FEATURES["output_features"]}
        stats = {key: {**feature, **STATS.get(key, {})} for key, feature in features.items()}
    policy = ACT(str(directory), dataset_stats=stats)
    assert_predicts_as_lerobot(policy, reference)
    assert policy.action_delta_indices == list(range(10))
    assert policy.model.config.image_size is None
    assert policy.model.config.backbone_norm == "frozen_batch_norm"


def test_a_repository_of_the_hub_is_downloaded(
    directory: Path, reference: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is no directory is asked of the Hub, and only for the files of a policy."""
    add_processor(directory)
    asked = []

    def download(repo_id: str, allow_patterns: list[str]) -> str:
        asked.append((repo_id, "model.safetensors" in allow_patterns))
        return str(directory)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert_predicts_as_lerobot(ACT("someone/act_pusht"), reference)
    assert asked == [("someone/act_pusht", True)]


def test_the_caller_chooses_how_actions_are_taken(directory: Path) -> None:
    """What does not shape the weights can be chosen anew, such as temporal ensembling."""
    add_processor(directory)
    policy = ACT(str(directory), n_action_steps=1, temporal_ensemble_coeff=0.01, optimizer_lr=3e-4)
    assert policy.model.config.temporal_ensemble_coeff == 0.01
    assert policy.model.config.chunk_size == 10
    assert policy.hparams["optimizer_lr"] == 3e-4


def test_its_checkpoint_needs_the_directory_no_more(
    directory: Path, tmp_path: Path, reference: dict[str, Any]
) -> None:
    """A checkpoint of a policy that came from lerobot stands alone."""
    add_processor(directory)
    trainer = Trainer(logger=False, accelerator="cpu", barebones=True)
    trainer.strategy.connect(ACT(str(directory)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for path in directory.iterdir():
        if path.suffix != ".ckpt":
            path.unlink()
    assert_predicts_as_lerobot(ACT.load_from_checkpoint(tmp_path / "last.ckpt"), reference)
    policy = ACT(str(tmp_path / "last.ckpt"), optimizer_lr=3e-4, n_action_steps=2)
    assert_predicts_as_lerobot(policy, reference)
    assert policy.hparams["optimizer_lr"] == 3e-4
    assert policy.model.config.n_action_steps == 2


def test_missing_statistics_are_named(directory: Path) -> None:
    """Weights whose normalisation is unknown are refused."""
    with pytest.raises(ValueError, match=r"no mean of observation.state.*\n.*dataset_stats="):
        ACT(str(directory))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "diffusion"}, r"config.json has type='diffusion'"),
        ({"dim_feedforward": 64}, r"do not fit their own config"),
        ({"normalization_mapping": {"STATE": "MIN_MAX"}}, "observation.state by MIN_MAX"),
        ({"n_obs_steps": 2}, "n_obs_steps=2"),
    ],
)
def test_a_policy_that_cannot_be_had_is_refused(
    directory: Path, changes: dict[str, Any], message: str
) -> None:
    """Another kind of policy, other weights or another normalisation are named."""
    add_processor(directory)
    edit_config(directory, **changes)
    with pytest.raises(ValueError, match=message):
        ACT(str(directory))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"torn"])
def test_a_damaged_directory_is_named(directory: Path, name: str, content: bytes | None) -> None:
    """A missing or torn file is an error that names the directory."""
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{directory} cannot be read as a lerobot policy"):
        ACT(str(directory))


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    """A checkpoint of something else is an error that names the file."""
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt cannot be read as a checkpoint of ACT"):
        ACT(str(tmp_path / "other.ckpt"))


def test_an_unknown_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is neither a directory nor on the Hub is an error that says so."""

    def fail(*_: object, **__: object) -> str:
        message = "offline"
        raise OSError(message)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match="'someone/act' is neither a directory nor a repository"):
        ACT("someone/act")
