"""An ordinary training script, which the launcher runs unchanged.

python examples/train.py --max-epochs 2
getiaction-launch --nodes 2 examples/train.py --max-epochs 2
"""

import argparse

from getiaction.demo import DotDataModule
from getiaction.policies import ACT
from getiaction.train import Trainer


def main() -> None:
    """Train a small ACT on the dot dataset, which is generated on first use."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--max-epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=3e-4)
    arguments = parser.parse_args()

    policy = ACT(
        chunk_size=10,
        n_action_steps=10,
        pretrained_backbone_weights=None,
        image_size=None,
        dim_model=64,
        n_heads=4,
        dim_feedforward=128,
        optimizer_lr=arguments.lr,
        optimizer_lr_backbone=arguments.lr,
    )
    data = DotDataModule(num_episodes=20, image_size_px=32, num_workers=0)
    trainer = Trainer(max_epochs=arguments.max_epochs, experiment_name="dot_act", accelerator="cpu")
    trainer.fit(policy, data)


if __name__ == "__main__":
    main()
