"""A run that trains slowly while a test disturbs it, and the weights that it must end with."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from getiaction_launch.run.records import AttemptRecord, read_attempts
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import open_path, read_json

EXAMPLES = Path(__file__).parents[2] / "examples"
EPOCHS = 3
LIMIT_SECONDS = 400

# Slows training down as long as there is a file, which the drill removes to let the run finish. The
# ResNet would make each checkpoint 134 MB large.
PACE = """
import time
from pathlib import Path
from lightning.pytorch import Callback
from torch import nn
from getiaction.policies import ACT

class SmallACT(ACT):
    def _set_model(self, stats, norm):
        model = super()._set_model(stats, norm)
        model.backbone = nn.Conv2d(3, 512, kernel_size=8, stride=8)
        return model

class Pace(Callback):
    def on_train_batch_start(self, *_):
        try:
            time.sleep(float(Path("pace").read_text()))
        except (FileNotFoundError, ValueError):
            pass
"""


def write_spec(directory: Path) -> None:
    """Write a spec of an even smaller ACT, with dropout, validation and checkpoints."""
    content = yaml.safe_load((EXAMPLES / "act_tiny.yaml").read_text())
    content["trainer"] |= {"max_epochs": EPOCHS, "callbacks": [{"class_path": "pace.Pace"}]}
    content["model"]["class_path"] = "pace.SmallACT"
    content["data"]["init_args"] |= {
        "num_episodes": 4,
        "train_batch_size": 8,
        "root": str(directory / "dot"),
    }
    (directory / "act.yaml").write_text(yaml.safe_dump(content))
    (directory / "pace.py").write_text(PACE)


def configure(cluster, directory: Path, setting: str) -> None:
    """Add a line to the cluster config of those that submit in a directory."""
    config = directory / f"cluster_configs/{cluster.name}.yaml"
    if not config.exists():
        config.parent.mkdir()
        config.write_text("backend: {class_path: getiaction_launch.backends.local.LocalBackend}\n")
    with config.open("a") as file:
        file.write(f"{setting}\n")


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Return the weights that the run has trained."""
    (checkpoint,) = directory.glob("checkpoints/*.ckpt")
    return torch.load(io.BytesIO(checkpoint.read_bytes()), weights_only=True)["state_dict"]


def status_of(getiaction_launch: Callable, run: str | Path = "@last") -> dict:
    """Return the answer of ``getiaction-launch status``, from another shell."""
    return json.loads(getiaction_launch("status", "--json", str(run)).stdout)


class Drill:
    """A run on two nodes that trains slowly until :meth:`finish` is called."""

    def __init__(self, launch: Callable, cluster, directory: Path, until: Callable) -> None:
        self.launch, self.cluster, self.directory = launch, cluster, directory
        self._until = until
        write_spec(directory)

    def save_often(self) -> None:
        """Have a checkpoint every few steps, for faults that leave no time to save."""
        configure(self.cluster, self.directory, "saving: {period_minutes: 0.05}")

    def start(self, *words: str, pace_seconds: float = 0.8, is_checked: bool = False) -> None:
        """Submit, and wait until it trains; a check in front of a queue would import torch, too."""
        (self.directory / "pace").write_text(str(pace_seconds))
        spec = ["--nodes", "2", "--config", "act.yaml", *(() if is_checked else ("--no-check",))]
        result = self.launch("--cluster", self.cluster.name, *spec, "--parsable", *words)
        assert result.returncode == 0, result.stderr
        self.run = open_path(result.stdout.strip())
        self.job_id = self.record("job")["job_id"]
        self._until(lambda: self.step() >= 4, LIMIT_SECONDS)

    def record(self, name: str) -> dict:
        """Return one of the run's records; empty if it does not exist."""
        return read_json(self.run / f"launch/{name}.json") or {}

    def step(self) -> int:
        """Return the step that the run has reached."""
        return self.record("progress").get("step", 0)

    def await_attempt(self, number: int) -> None:
        """Wait until the next attempt has begun."""
        self._until(lambda: self.record(f"attempt_{number}"), LIMIT_SECONDS)

    def await_training(self, number: int) -> None:
        """Wait until an attempt is further than the one before it was."""
        self.await_attempt(number)
        reached = self.step()
        self._until(lambda: self.step() > reached + 1, LIMIT_SECONDS)

    def await_commit(self, attempt: int = 0) -> None:
        """Wait until an attempt has committed a checkpoint."""
        markers = self.run / "launch/checkpoints"

        def is_committed() -> bool:
            found = [read_json(path) or {} for path in markers.glob("*.json")]
            return any(marker.get("attempt") == attempt for marker in found)

        self._until(is_committed, LIMIT_SECONDS)

    def finish(self) -> dict[str, torch.Tensor]:
        """Let the run finish at full speed, and return its weights."""
        (self.directory / "pace").unlink(missing_ok=True)
        self._until(self.is_over, LIMIT_SECONDS)
        assert self.state() == "SUCCEEDED", self.launch("status", str(self.run)).stdout
        (version,) = self.run.parent.iterdir()  # all attempts are in the same one
        assert version == self.run
        return weights(self.run)

    def is_over(self) -> bool:
        """Whether no other attempt follows, by the run's records alone."""
        *_, last = AttemptRecord(), *read_attempts(Run(self.run))
        return last.ended_at is not None and not last.goes_on

    def state(self) -> str:
        """Return the state that ``getiaction-launch status`` shows."""
        return status_of(self.launch, self.run)["state"]


def assert_same(trained: dict[str, torch.Tensor], undisturbed: dict[str, torch.Tensor]) -> None:
    """Assert that two sets of weights are equal, bit for bit."""
    assert trained.keys() == undisturbed.keys()
    assert [key for key in trained if not torch.equal(trained[key], undisturbed[key])] == []
