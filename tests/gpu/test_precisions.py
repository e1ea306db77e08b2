"""ACT trains on a GPU in every precision that people use, and resumes there."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback

from getiaction.demo import DotDataModule
from getiaction.policies import ACT
from getiaction.train import Trainer

SPEC = Path(__file__).parents[2] / "examples/act_tiny.yaml"
MODEL = yaml.safe_load(SPEC.read_text())["model"]["init_args"]
EPOCHS = 6
TOLERANCE = 0.3
"""How much the loss of a resumed training may differ, as a share: ACT draws other random numbers.

The launcher restores those; the Trainer alone does not.
"""

pytestmark = pytest.mark.usefixtures("gpu")


class Losses(Callback):
    """Collects the loss of each step, on the CPU."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        """Take one step's."""
        del pl_module, batch, batch_idx
        self.values[trainer.global_step] = float(outputs["loss"])


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., tuple[Trainer, Losses]]:
    """Train a small ACT on the first GPU."""
    numbers = itertools.count()

    def fit(
        *, epochs: int, resume_from: str | None = None, compile_model: bool = False, **options
    ) -> tuple[Trainer, Losses]:
        torch.manual_seed(1)
        losses = Losses()
        policy = ACT(**MODEL, dropout=0.0, compile_model=compile_model)
        data = DotDataModule(num_episodes=10, image_size_px=32, root=tmp_path / "dot", seed=1)
        trainer = Trainer(
            accelerator="gpu",
            devices=1,
            max_epochs=epochs,
            callbacks=[losses],
            default_root_dir=tmp_path / f"experiments_{next(numbers)}",
            enable_progress_bar=False,
            **options,
        )
        trainer.fit(policy, data, ckpt_path=resume_from)
        return trainer, losses

    return fit


@pytest.mark.parametrize(
    "options",
    [{"precision": "16-mixed"}, {"precision": "bf16-mixed"}, {"compile_model": True}],
    ids=["16-mixed", "bf16-mixed", "compiled"],
)
def test_act_learns_and_resumes(train, options):
    """The loss falls by half, and a training that is cut in two continues at its loss."""
    trainer, whole = train(epochs=EPOCHS, **options)
    assert trainer.strategy.root_device.type == "cuda"
    steps = sorted(whole.values)
    first, last = (sum(whole.values[step] for step in part) / 5 for part in (steps[:5], steps[-5:]))
    assert last < first / 2

    half, before = train(epochs=EPOCHS // 2, **options)
    _, after = train(epochs=EPOCHS, resume_from=half.checkpoint_callback.best_model_path, **options)
    assert sorted({**before.values, **after.values}) == steps
    resumed_at = min(after.values)
    assert resumed_at == max(before.values) + 1
    assert after.values[resumed_at] == pytest.approx(whole.values[resumed_at], rel=TOLERANCE)


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_communicate_through_nccl(tmp_path, launched, ranks):
    """A script in DDP uses NCCL, and its ranks agree about a sum of their own numbers."""
    if torch.cuda.device_count() < ranks:
        pytest.skip(f"{ranks} ranks of NCCL need {ranks} GPUs")
    (tmp_path / "train.py").write_text(
        "import torch\n"
        "from lightning.pytorch.demos.boring_classes import BoringModel\n"
        "from getiaction.train import Trainer\n"
        "class Model(BoringModel):\n"
        "    def on_train_end(self):\n"
        "        number = torch.ones(1, device=self.device) * (1 + self.global_rank)\n"
        "        torch.distributed.all_reduce(number)\n"
        "        name = torch.distributed.get_backend()\n"
        "        print(f'backend {name} device {self.device} sum {number.item():.0f}')\n"
        "trainer = Trainer(max_steps=4, accelerator='gpu', strategy='ddp')\n"
        "trainer.fit(Model())\n"
    )
    launched("--wait", "--gpus-per-node", str(ranks), "train.py")
    logs = [
        path.read_text()
        for path in sorted(
            tmp_path.glob("experiments/*/version_0/launch/logs/attempt_0/rank_*.log")
        )
    ]
    total = sum(range(1, ranks + 1))
    assert len(logs) == ranks
    for rank, log in enumerate(logs):
        assert f"backend nccl device cuda:{rank} sum {total}" in log
