"""The command line of whoever runs the tests, who sees the GPUs."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess]
LIMIT_SECONDS = 120


@pytest.fixture
def launcher(tmp_path: Path) -> Command:
    """Run ``getiaction-launch`` in ``tmp_path``."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "getiaction_launch.cli", *words],
            cwd=tmp_path,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )

    return run


@pytest.fixture
def launched(launcher: Command) -> Command:
    """Run ``getiaction-launch`` in ``tmp_path``, and require success."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess:
        result = launcher(*words, **env)
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run
