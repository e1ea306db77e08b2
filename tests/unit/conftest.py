"""Fixtures of several files; what is heavy is imported by those that use it."""

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from getiaction_launch.backends.local import LocalBackend
from getiaction_launch.run.run import Run

DATASETS = Path(__file__).parents[1] / "data" / "lerobot"


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """This process with a worker's environment."""
    from tiny import Worker

    from getiaction_launch.worker import interruption

    run = Run(tmp_path / "tiny" / "version_0")
    run.launch_directory.mkdir(parents=True)
    monkeypatch.setenv("GETIACTION_RUN_DIR", str(run.directory))
    monkeypatch.setenv("GETIACTION_LAUNCH_ATTEMPT", "0")
    monkeypatch.setenv("GETIACTION_LAUNCH_WORKER", str(os.getpid()))
    monkeypatch.setattr(interruption, "AGREEMENT_SECONDS", 0)  # before every batch
    before = signal.getsignal(signal.SIGTERM)
    yield Worker(run, monkeypatch)
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def background(tmp_path):
    """Saves in the background, and nobody has asked it for anything yet."""
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    from getiaction_launch.worker.progress import ProgressReport
    from getiaction_launch.worker.saving.background_io import BackgroundCheckpointIO

    run = Run(tmp_path / "act" / "version_0")
    run.launch_directory.mkdir(parents=True)
    resumed_from = run.directory / "last.ckpt"
    io = BackgroundCheckpointIO(
        TorchCheckpointIO(), ProgressReport(run), run, lambda _: True, resumed_from
    )
    yield io
    io.close()


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """SLURM's commands on the path, a cache of their answers that is empty, a clean environment."""
    for name in os.environ:
        if name.startswith(("SLURM", "SBATCH")):
            monkeypatch.delenv(name)
    (tmp_path / "slurm").mkdir()
    fake = FakeSlurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", f"{fake.directory}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty working directory, as if outside of any SLURM job."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def v30(tmp_path: Path) -> Path:
    """Give a v3.0 dataset with a video to damage."""
    return Path(shutil.copytree(DATASETS / "pusht_like_v30", tmp_path / "v30"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Give a v3.0 dataset without videos to damage."""
    return Path(shutil.copytree(DATASETS / "images_only_v30", tmp_path / "images"))


@pytest.fixture
def v21(tmp_path: Path) -> Path:
    """Give a v2.1 dataset to damage."""
    return Path(shutil.copytree(DATASETS / "aloha_like_v21", tmp_path / "v21"))


@pytest.fixture
def middle(tmp_path: Path) -> Path:
    """A checkpoint from the middle of the second epoch, where the launcher would save it."""
    from tiny import BATCHES, before_each_fetch, fit

    path = tmp_path / "middle.ckpt"

    def save(trainer):
        if trainer.global_step == BATCHES + 2:
            trainer.save_checkpoint(path)

    with before_each_fetch(save) as callback:
        fit(callback)
    return path


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that are submitted to this machine; none is really started."""
    started: list[Run] = []

    def submit(self: LocalBackend, runs: Sequence[Run], max_parallel: int | None) -> None:
        del self, max_parallel
        started.extend(runs)

    monkeypatch.setattr(LocalBackend, "submit", submit)
    return started
