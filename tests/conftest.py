"""Fixtures that every kind of test uses."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


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
