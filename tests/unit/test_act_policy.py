"""ACT as users meet it: built by its dataset, trained, saved, loaded, and asked for actions."""

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning.pytorch
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from getiaction.policies import ACT

CHUNK_SIZE = 4
IMAGENET = "ResNet18_Weights.IMAGENET1K_V1"
SMALL: dict[str, Any] = {
    "chunk_size": CHUNK_SIZE,
    "n_action_steps": CHUNK_SIZE,
    "dim_model": 16,
    "n_heads": 2,
    "dim_feedforward": 32,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "latent_dim": 4,
    "image_size": None,
    "pretrained_backbone_weights": None,
}
STATS: dict[str, dict[str, Any]] = {
    "observation.image": {
        "type": "VISUAL",
        "shape": [3, 32, 32],
        "mean": [[[0.1]], [[0.2]], [[0.3]]],
        "std": [[[0.0003]], [[0.5]], [[0.5]]],
    },
    "observation.state": {"type": "STATE", "shape": [2], "mean": [5.0, 0.0], "std": [2.0, 0.0]},
    "action": {"type": "ACTION", "shape": [2], "mean": [1.0, 2.0], "std": [3.0, 4.0]},
}


class Frames(Dataset):
    """Twelve noisy frames with the statistics that a policy is built by."""

    fps = 10.0
    features: ClassVar[dict[str, Any]] = {key: {} for key in STATS}
    stats: ClassVar[dict[str, Any]] = STATS
    delta_indices: dict[str, list[int]] | None = None

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(index)
        return {
            "observation.image": torch.rand(3, 32, 32, generator=random),
            "observation.state": torch.rand(2, generator=random),
            "action": torch.rand(CHUNK_SIZE, 2, generator=random),
            "action_is_pad": torch.arange(CHUNK_SIZE) > index % CHUNK_SIZE,
        }


def loader(batch_size: int = 4) -> DataLoader:
    """Batches of a dataset that a policy knows."""
    return DataLoader(Frames(), batch_size=batch_size)


def observation(n: int = 2) -> dict[str, Tensor]:
    """Observations of n robots."""
    batch = next(iter(loader(n)))
    return {key: batch[key] for key in ("observation.image", "observation.state")}


def offline(*_: object, **__: object) -> None:
    """Stand for a download on a machine without network."""
    message = "no route to host"
    raise OSError(message)


def make_trainer(root: Path, **options: Any) -> lightning.pytorch.Trainer:
    """Lightning's own Trainer: the policy needs no other. CPU and quiet."""
    defaults = {"max_steps": 2, "logger": False, "enable_progress_bar": False}
    defaults |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    return lightning.pytorch.Trainer(default_root_dir=root, **{**defaults, **options})


def test_without_shapes_there_are_no_parameters() -> None:
    """ACT() has nothing to train, and says what it needs when it is used."""
    policy = ACT()
    assert list(policy.parameters()) == []
    with pytest.raises(RuntimeError, match=r"(?s)no parameters yet.*dataset_stats="):
        policy.select_action({})


def test_building_twice_keeps_the_first_model() -> None:
    """build_model is idempotent."""
    policy = ACT(**SMALL)
    policy.build_model(STATS)
    model = policy.model
    policy.build_model(STATS)
    assert policy.model is model


def test_fit_builds_for_the_dataset_and_trains_everything(tmp_path: Path) -> None:
    """Every parameter, made at fit's start, is in the optimizer and has moved."""
    policy = ACT(**SMALL, optimizer_lr=1e-2, optimizer_lr_backbone=1e-3)
    before = {}

    class Remember(Callback):
        def on_train_start(self, *_: object) -> None:
            before.update({name: p.detach().clone() for name, p in policy.named_parameters()})

    trainer = make_trainer(tmp_path, callbacks=[Remember()])
    trainer.fit(policy, loader())
    groups = trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [1e-2, 1e-3]
    assert sum(len(group["params"]) for group in groups) == len(before)
    still = [name for name, p in policy.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_data_without_statistics_is_refused(tmp_path: Path) -> None:
    """Data that no policy can be built by is an error that says what to use."""
    with pytest.raises(ValueError, match=r"(?s)no statistics.*LeRobotDataModule"):
        make_trainer(tmp_path).fit(ACT(**SMALL), DataLoader([{"action": 1}]))


def test_losses_are_logged_apart(tmp_path: Path) -> None:
    """L1 and KL are logged beside the loss; validation logs L1 with the latent zero."""
    policy = ACT(**SMALL, kl_weight=3.0, dropout=0.0)
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.fit(policy, loader(), loader())
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    names = ("loss", "l1_loss", "kl_loss")
    train = {f"train/{name}{suffix}" for name in names for suffix in ("", "_step")}
    assert logged.keys() == train | {"val/loss", "val/l1_loss"}
    total = logged["train/l1_loss"] + 3 * logged["train/kl_loss"]
    assert logged["train/loss"] == pytest.approx(total, rel=1e-5)

    batch = next(iter(loader(12)))
    errors = (policy.eval()(batch) - batch["action"]).abs() / torch.tensor([3.0, 4.0])
    expected = errors[~batch["action_is_pad"]].mean().item()
    (tested,) = trainer.test(policy, loader(12), verbose=False)
    assert tested == pytest.approx({"test/loss": expected, "test/l1_loss": expected}, rel=1e-5)


def test_without_vae_no_kl_is_logged(tmp_path: Path) -> None:
    """Without the VAE the loss is L1 alone."""
    trainer = make_trainer(tmp_path)
    trainer.fit(ACT(**SMALL, use_vae=False), loader())
    names = ("loss", "l1_loss")
    assert trainer.callback_metrics.keys() == {
        f"train/{n}{s}" for n in names for s in ("", "_step")
    }


def test_a_checkpoint_loads_with_nothing_but_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made without shapes, a saved policy loads with torch's safe loader, no data, no network."""
    weights = tmp_path / "resnet18.pth"
    donor = ACT(**SMALL, backbone_norm="frozen_batch_norm", dataset_stats=STATS)
    torch.save(donor.model.backbone.state_dict(), weights)
    policy = ACT(**{**SMALL, "pretrained_backbone_weights": str(weights)})
    trainer = make_trainer(tmp_path)
    trainer.fit(policy, loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    weights.unlink()
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)

    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["hyper_parameters"]["backbone_norm"] == "frozen_batch_norm"
    loaded = ACT.load_from_checkpoint(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.state_dict(), policy.state_dict())
    chunk = policy.predict_action_chunk(observation())
    torch.testing.assert_close(loaded.predict_action_chunk(observation()), chunk)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm"])
def test_resuming_keeps_the_checkpoints_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, norm: str
) -> None:
    """fit(ACT(), ckpt_path=...) takes the norm from the checkpoint, whatever weights are here."""
    first = make_trainer(tmp_path)
    first.fit(ACT(**SMALL, backbone_norm=norm), loader())
    first.save_checkpoint(tmp_path / "last.ckpt")
    # Here the weights are missing if the checkpoint's norm asks for them, and the reverse.
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    if norm == "group_norm":
        donor = ACT(**SMALL, backbone_norm="frozen_batch_norm", dataset_stats=STATS)
        torch.save(donor.model.backbone.state_dict(), folder / "resnet18-f37072fd.pth")
    policy = ACT(**{**SMALL, "pretrained_backbone_weights": IMAGENET})
    trainer = make_trainer(tmp_path, max_steps=4)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no pretrained weights")
        trainer.fit(policy, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 4
    assert policy.hparams["backbone_norm"] == norm
    assert ("model.backbone.bn1.running_mean" in policy.state_dict()) == (norm[0] == "f")


def test_training_without_pretrained_weights_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new policy that misses its ImageNet weights says so, and trains with group norm."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    policy = ACT(**{**SMALL, "pretrained_backbone_weights": IMAGENET})
    with pytest.warns(UserWarning, match="no pretrained weights for resnet18.*no route to host"):
        make_trainer(tmp_path).fit(policy, loader())
    assert policy.hparams["backbone_norm"] == "group_norm"


def test_building_without_a_trainer_warns_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dataset_stats, missing ImageNet weights are warned of when the model is made."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.warns(UserWarning, match="no pretrained weights for resnet18"):
        ACT(**{**SMALL, "pretrained_backbone_weights": IMAGENET}, dataset_stats=STATS)


def test_ranks_whose_models_differ_are_refused() -> None:
    """Models made before the Trainer, some with the weights and some without, do not train."""
    policy = ACT(**SMALL, dataset_stats=STATS)
    # Of two ranks, one has frozen norms: the answers to "all?" and "any?" differ.
    decide = SimpleNamespace(reduce_boolean_decision=lambda _, all: not all)  # noqa: A006 - Lightning's name
    policy._trainer = SimpleNamespace(strategy=decide)
    with pytest.raises(RuntimeError, match=r"(?s)some ranks.*pretrained_backbone_weights="):
        policy.setup("fit")


def test_a_checkpoint_is_tested_by_a_policy_without_shapes(tmp_path: Path) -> None:
    """predict(ACT(), ckpt_path=...) builds the model by the checkpoint where data is unknown."""
    policy = ACT(**SMALL, dataset_stats=STATS)
    trainer = make_trainer(tmp_path)
    trainer.strategy.connect(policy)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    data = DataLoader([observation()], batch_size=None)
    (chunk,) = make_trainer(tmp_path).predict(ACT(**SMALL), data, ckpt_path=tmp_path / "last.ckpt")
    torch.testing.assert_close(chunk, policy.predict_action_chunk(observation()))


def test_hyperparameters_are_plain_yaml(tmp_path: Path) -> None:
    """hparams.yaml can be read by any YAML reader, and has what was asked for."""
    tensors = {
        key: {**feature, "mean": torch.tensor(feature["mean"]), "shape": tuple(feature["shape"])}
        for key, feature in STATS.items()
    }
    policy = ACT(**{**SMALL, "image_size": (32, 48)}, dataset_stats=tensors)
    trainer = make_trainer(tmp_path, logger=lightning.pytorch.loggers.CSVLogger(tmp_path))
    trainer.fit(policy, loader())
    hparams = yaml.safe_load((Path(trainer.log_dir) / "hparams.yaml").read_text())
    assert hparams["image_size"] == [32, 48]
    assert hparams["dataset_stats"]["action"]["mean"] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("use_imagenet_stats", "mean", "std"),
    [
        (True, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        (False, [0.1, 0.2, 0.3], [0.01, 0.5, 0.5]),
    ],
)
def test_statistics_are_sound(
    *, use_imagenet_stats: bool, mean: list[float], std: list[float]
) -> None:
    """Cameras take ImageNet's statistics unless told not to; no std is below its floor."""
    policy = ACT(**SMALL, dataset_stats=STATS, use_imagenet_stats=use_imagenet_stats)
    buffers = dict(policy.model.normalizer.named_buffers())
    torch.testing.assert_close(buffers["observation_image_mean"].flatten(), torch.tensor(mean))
    torch.testing.assert_close(buffers["observation_image_std"].flatten(), torch.tensor(std))
    torch.testing.assert_close(buffers["observation_state_std"], torch.tensor([2.0, 1e-4]))


def test_actions_of_a_chunk_are_taken_in_turn() -> None:
    """n_action_steps actions come from one look, in the dataset's units, then the next look."""
    policy = ACT(**{**SMALL, "n_action_steps": 2}, dataset_stats=STATS)
    looks = [observation() for _ in range(2)]
    looks[1]["observation.state"] += 1
    chunks = [policy.predict_action_chunk(look) for look in looks]
    taken = [policy.select_action(looks[i // 2]) for i in range(4)]
    expected = [chunks[0][:, 0], chunks[0][:, 1], chunks[1][:, 0], chunks[1][:, 1]]
    torch.testing.assert_close(taken, expected)
    assert policy.model.training, "asking for an action must not end training mode"


def test_reset_forgets_the_rest_of_a_chunk() -> None:
    """After reset the next action is the first of a new chunk."""
    policy = ACT(**SMALL, dataset_stats=STATS)
    look = observation()
    policy.select_action(look)
    policy.reset()
    torch.testing.assert_close(policy.select_action(look), policy.predict_action_chunk(look)[:, 0])


def test_temporal_ensembling_averages_and_resets() -> None:
    """With a coefficient, the second action mixes two chunks; reset begins anew."""
    arguments = {**SMALL, "n_action_steps": 1, "temporal_ensemble_coeff": 0.0}
    policy = ACT(**arguments, dataset_stats=STATS)
    looks = [observation() for _ in range(2)]
    looks[1]["observation.state"] += 100
    chunks = [policy.predict_action_chunk(look) for look in looks]
    torch.testing.assert_close(policy.select_action(looks[0]), chunks[0][:, 0])
    expected = (chunks[0][:, 1] + chunks[1][:, 0]) / 2
    torch.testing.assert_close(policy.select_action(looks[1]), expected)
    policy.reset()
    torch.testing.assert_close(policy.select_action(looks[1]), chunks[1][:, 0])


def test_predictions_do_not_depend_on_dropout() -> None:
    """In training mode too, predictions are without dropout and without gradient."""
    policy = ACT(**SMALL, dropout=0.5, dataset_stats=STATS).train()
    first, second = (policy.predict_action_chunk(observation()) for _ in range(2))
    torch.testing.assert_close(first, second)
    assert not first.requires_grad


def test_observations_are_moved_to_the_policy() -> None:
    """Observations may be on another device than the policy; actions are on the policy's."""
    policy = ACT(**SMALL, dataset_stats=STATS).to("meta")
    assert policy.select_action(observation()).device.type == "meta"


def test_what_the_dataset_must_deliver() -> None:
    """The chunk of actions starts at the current frame; observations have no time axis."""
    policy = ACT(**SMALL)
    assert policy.action_delta_indices == [0, 1, 2, 3]
    assert policy.observation_delta_indices is None
    assert policy.reward_delta_indices is None


@pytest.mark.parametrize(("trainers", "clipped_to"), [(None, 1e-3), (1e-2, 1e-2)])
def test_gradients_are_clipped(tmp_path: Path, trainers: float | None, clipped_to: float) -> None:
    """The Trainer's gradient_clip_val decides; without it the policy's own norm does."""
    norms = []

    class Norm(Callback):
        def on_before_zero_grad(self, _: object, module: ACT, __: object) -> None:
            grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
            norms.extend([torch.cat(grads).norm().item()] if grads else [])

    policy = ACT(**SMALL, optimizer_grad_clip_norm=1e-3)
    make_trainer(tmp_path, gradient_clip_val=trainers, callbacks=[Norm()]).fit(policy, loader())
    assert norms
    assert norms == pytest.approx([clipped_to] * len(norms), rel=1e-2)


def test_half_precision_steps_can_be_clipped(tmp_path: Path) -> None:
    """Clipping, which is on by default, works in bf16-mixed, where a fused optimizer cannot."""
    trainer = make_trainer(tmp_path, precision="bf16-mixed")
    trainer.fit(ACT(**SMALL), loader())
    assert trainer.global_step == 2


def test_compiling_keeps_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """compile_model compiles in place: the state dict has the same names."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self)))
    policy = ACT(**SMALL, dataset_stats=STATS, compile_model=True)
    plain = ACT(**SMALL, dataset_stats=STATS)
    assert [cls.__name__ for cls in compiled] == ["ACTModel"]
    assert policy.state_dict().keys() == plain.state_dict().keys()


def test_two_ranks_agree_where_one_has_no_weights(tmp_path: Path) -> None:
    """Under plain DDP, ranks of which one lacks the weights all train the same GroupNorm model."""
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys
        os.environ["TORCH_HOME"] = {str(tmp_path)!r} + "/home" + os.environ["RANK"]
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import lightning.pytorch, torch
        from test_act_policy import ACT, IMAGENET, SMALL, loader, make_trainer, offline

        torch.hub.download_url_to_file = offline
        file = torch.hub.get_dir() + "/checkpoints/resnet18-f37072fd.pth"
        if os.environ["RANK"] == "1":
            os.makedirs(os.path.dirname(file))
            open(file, "w").close()
        torch.manual_seed(int(os.environ["RANK"]))
        policy = ACT(**{{**SMALL, "pretrained_backbone_weights": IMAGENET}})
        trainer = make_trainer({str(tmp_path)!r}, devices=2, strategy="ddp")
        trainer.fit(policy, loader(2))
        torch.save(policy.state_dict(), {str(tmp_path)!r} + "/rank" + os.environ["RANK"])
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ACT: no pretrained weights" in done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}") for rank in range(2))
    assert "model.backbone.bn1.running_mean" not in first
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_features_of_one_number_are_trained_on() -> None:
    """A one-motor arm: LeRobot's samples hold its state and action as bare numbers."""
    stats = {**STATS}
    for key in ("observation.state", "action"):
        stats[key] = {**STATS[key], "shape": [1], "mean": [0.0], "std": [1.0]}
    policy = ACT(**SMALL, dataset_stats=stats)
    batch = next(iter(loader(3)))
    bare = {key: batch[key][..., 0] for key in ("observation.state", "action")}
    policy.training_step({**batch, **bare}, 0).backward()
    chunk = policy.predict_action_chunk({**batch, **bare})
    assert chunk.shape == (3, CHUNK_SIZE, 1)


def test_own_statistics_are_not_taken_from_imagenet() -> None:
    """use_imagenet_stats=False beside a dataset that gives ImageNet's is refused with the fix."""
    imagenet = {"mean": [[[0.485]], [[0.456]], [[0.406]]], "std": [[[0.2]], [[0.2]], [[0.2]]]}
    stats = {**STATS, "observation.image": {**STATS["observation.image"], **imagenet}}
    with pytest.raises(ValueError, match=r"LeRobotDataModule\(use_imagenet_stats=False\) too"):
        ACT(**SMALL, use_imagenet_stats=False).build_model(stats)
    policy = ACT(**SMALL, use_imagenet_stats=False, dataset_stats=STATS)
    mean = policy.hparams["dataset_stats"]["observation.image"]["mean"]
    assert torch.tensor(mean).flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_several_evaluation_loaders_are_logged_apart(tmp_path: Path) -> None:
    """Lightning adds the loader's number to the names."""
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.fit(ACT(**SMALL), loader(), [loader(), loader(2)])
    assert {"val/loss/dataloader_idx_0", "val/loss/dataloader_idx_1"} <= set(
        trainer.callback_metrics
    )


@pytest.mark.parametrize("convert", [Tensor.double, Tensor.half, Tensor.numpy])
def test_observations_of_a_robot_are_taken_as_they_come(convert: Any) -> None:
    """float64, half and NumPy observations become the policy's own type, also a half policy's."""
    policy = ACT(**SMALL, dataset_stats=STATS)
    given = {key: convert(value) for key, value in observation().items()}
    assert policy.predict_action_chunk(given).shape == (2, CHUNK_SIZE, 2)
    assert policy.bfloat16().select_action(given).dtype == torch.bfloat16


def test_calling_a_policy_predicts_whatever_its_mode() -> None:
    """A policy that is still in training mode answers without dropout or a posterior."""
    policy = ACT(**SMALL, dataset_stats=STATS).train()
    assert torch.equal(policy(observation()), policy.predict_action_chunk(observation()))


def test_raw_stats_json_is_refused_with_the_fix() -> None:
    """Statistics without type and shape, as in meta/stats.json, are not enough."""
    with pytest.raises(ValueError, match=r"lacks 'type' or 'shape'\ndataset_stats=LeRobotDataset"):
        ACT(**SMALL, dataset_stats={"action": {"mean": [0.0], "std": [1.0]}})
