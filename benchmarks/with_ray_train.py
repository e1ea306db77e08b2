"""What one writes to train a spec with Ray Train: the rival of ``against_ray_train.py``.

Inside a job of Ray: ``python with_ray_train.py SPEC STORAGE``. It is the TorchTrainer with Ray's
integration of Lightning, as
https://docs.ray.io/en/latest/train/getting-started-pytorch-lightning.html has it, around the
Trainer, policy and data that the spec names. A worker's failure is forgiven once.
"""

import sys
from pathlib import Path
from typing import Any

import yaml
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

RAY_LIGHTNING = "ray.train.lightning"


def train_loop(spec: dict[str, Any]) -> None:
    """Build what the spec names and fit, from Ray's newest checkpoint if there is one."""
    from ray.train import get_checkpoint
    from ray.train.lightning import RayTrainReportCallback, prepare_trainer

    from getiaction.cli import CLI

    cli = CLI(args=spec, run=False)
    trainer = prepare_trainer(cli.trainer)
    checkpoint = get_checkpoint()
    if checkpoint is None:
        trainer.fit(cli.model, cli.datamodule)
        return
    with checkpoint.as_directory() as directory:
        path = Path(directory, RayTrainReportCallback.CHECKPOINT_NAME)
        trainer.fit(cli.model, cli.datamodule, ckpt_path=path, weights_only=False)


def main() -> None:
    """Train on as many nodes as the spec says, one worker each."""
    path, storage = map(Path, sys.argv[1:])
    spec = yaml.safe_load(path.read_text())
    own = spec["trainer"]
    own["strategy"] = {"class_path": f"{RAY_LIGHTNING}.RayDDPStrategy"}
    own["plugins"] = [{"class_path": f"{RAY_LIGHTNING}.RayLightningEnvironment"}]
    own["callbacks"] += [{"class_path": f"{RAY_LIGHTNING}.RayTrainReportCallback"}]
    TorchTrainer(
        train_loop,
        train_loop_config=spec,
        scaling_config=ScalingConfig(
            num_workers=own["num_nodes"], placement_strategy="STRICT_SPREAD"
        ),
        run_config=RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=FailureConfig(max_failures=1),
            checkpoint_config=CheckpointConfig(num_to_keep=2),  # as the launcher does
        ),
    ).fit()


if __name__ == "__main__":
    main()
