"""Fixtures that every kind of test uses."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters.slurm import SlurmCluster, missing

Command = Callable[..., "subprocess.CompletedProcess[str]"]
REQUIRED = os.environ.get("GETIACTION_TEST_REQUIRE", "").split(",")
"""Clusters without which tests fail; without the others, they are skipped."""


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings must not decide what a test sees."""
    for name in os.environ:
        if name.startswith(("GETIACTION_", "PL_TRAINER_", "CUDA_VISIBLE_DEVICES")):
            monkeypatch.delenv(name)


@pytest.fixture
def getiaction_launch(tmp_path: Path) -> Command:
    """Run ``getiaction-launch`` in ``tmp_path`` as a user's shell would, and return its end."""

    def run(*words: str, timeout_seconds: float = 120, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "getiaction_launch.cli", *words],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def _slurm() -> None:
    """Skip a test that needs SLURM where none can be had, or fail it where one is required."""
    reason = missing()
    if reason and "slurm" in REQUIRED:
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm_cluster(_slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A real SLURM of four nodes, for all tests; each leaves it without jobs and with all nodes."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slurm_without_accounting(
    _slurm: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmCluster]:
    """A real SLURM of two nodes whose ``sacct`` has no database to ask, as on many sites."""
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), num_nodes=2, accounting=False) as cluster:
        yield cluster
