"""Does ACT learn? Held-out episodes of the dot dataset, against holding still and a linear model.

The measure is the masked L1 of normalised actions over chunks of 10. "Holding the state" answers
every action with the current position. "Linear, told the goal" is a least-squares fit from the
position and the episode's last position, which the image shows but which ACT does not get.

    python benchmarks/learning.py
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch import Trainer as LightningTrainer

from getiaction.data import LeRobotDataset
from getiaction.demo import DotDataModule
from getiaction.policies import ACT
from getiaction.train import Trainer

CHUNK = 10
AIM = 0.12


class Curve(Callback):
    """Collects the validation loss of each epoch."""

    def __init__(self) -> None:
        self.l1: list[float] = []

    def on_validation_end(self, trainer: LightningTrainer, pl_module: LightningModule) -> None:
        """Take the epoch's value."""
        del pl_module
        self.l1.append(float(trainer.callback_metrics["val/l1_loss"]))
        print(f"epoch {trainer.current_epoch}: val/l1_loss {self.l1[-1]:.4f}", flush=True)


def read_chunks(dataset: LeRobotDataset) -> tuple[torch.Tensor, ...]:
    """State (N, 2), goal (N, 2), actions (N, CHUNK, 2) and padding (N, CHUNK) of every frame."""
    samples = [dataset[i] for i in range(len(dataset))]
    state = torch.stack([sample["observation.state"] for sample in samples])
    episode = torch.stack([sample["episode_index"] for sample in samples])
    last = {int(e): state[episode == e][-1] for e in episode.unique()}
    goal = torch.stack([last[int(e)] for e in episode])
    action = torch.stack([sample["action"] for sample in samples])
    return state, goal, action, torch.stack([sample["action_is_pad"] for sample in samples])


def baselines(data: DotDataModule) -> dict[str, float]:
    """Masked normalised L1 of the two rivals on the held-out episodes."""
    stats = data.train_dataset.stats["action"]
    mean, std = torch.tensor(stats["mean"]), torch.tensor(stats["std"])

    def l1(predicted: torch.Tensor, action: torch.Tensor, is_pad: torch.Tensor) -> float:
        error = ((predicted - action) / std).abs()
        return float(error[~is_pad].mean())

    def inputs(state: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        ones = torch.ones(len(state), 1)
        return torch.cat([(state - mean) / std, (goal - mean) / std, ones], dim=1)

    state, goal, action, is_pad = read_chunks(data.train_dataset)
    whole = ~is_pad.any(dim=1)
    fit = torch.linalg.lstsq(inputs(state, goal)[whole], action[whole].flatten(1)).solution
    state, goal, action, is_pad = read_chunks(data.val_dataset)
    linear = (inputs(state, goal) @ fit).view_as(action)
    return {
        "holding the state": l1(state[:, None].expand_as(action), action, is_pad),
        "linear, told the goal": l1(linear, action, is_pad),
    }


def draw(path: Path, curve: list[float], rivals: dict[str, float]) -> None:
    """The curve and its rivals as a picture."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=120)
    axes.plot(np.arange(1, len(curve) + 1), curve, label=f"ACT, from the image ({curve[-1]:.3f})")
    for (name, value), style in zip(rivals.items(), ("--", ":"), strict=True):
        axes.axhline(value, linestyle=style, color="gray", label=f"{name} ({value:.3f})")
    axes.set_xlabel("epoch")
    axes.set_ylabel("L1 of normalised actions,\nheld-out episodes")
    axes.set_ylim(0, max(0.5, *rivals.values()))
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Train, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-epochs", type=int, default=10)
    parser.add_argument("--picture", type=Path, default=Path("docs/learning.png"))
    arguments = parser.parse_args()
    torch.manual_seed(1)
    data = DotDataModule(
        num_episodes=100, image_size_px=64, val_split=0.1, train_batch_size=32, num_workers=0
    )
    policy = ACT(
        chunk_size=CHUNK,
        n_action_steps=CHUNK,
        pretrained_backbone_weights=None,
        image_size=None,
        dim_model=64,
        n_heads=4,
        dim_feedforward=256,
        n_encoder_layers=2,
        n_vae_encoder_layers=2,
        latent_dim=8,
        optimizer_lr=3e-4,
        optimizer_lr_backbone=3e-4,
    )
    curve = Curve()
    with tempfile.TemporaryDirectory() as root:
        trainer = Trainer(
            max_epochs=arguments.max_epochs,
            accelerator="cpu",
            default_root_dir=root,
            callbacks=curve,
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        trainer.fit(policy, data)
    rivals = baselines(data)
    for name, value in {"ACT": curve.l1[-1], **rivals}.items():
        print(f"{name}: {value:.4f}")
    print(f"ACT / holding the state: {curve.l1[-1] / rivals['holding the state']:.2f}")
    print(f"aim: below {AIM}: {'reached' if curve.l1[-1] < AIM else 'NOT reached'}")
    draw(arguments.picture, curve.l1, rivals)


if __name__ == "__main__":
    main()
