"""The launcher's command line, which has to succeed."""

import subprocess
from collections.abc import Callable

import pytest

Command = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def launched(getiaction_launch: Command) -> Command:
    """Run ``getiaction-launch`` in ``tmp_path``, and require success."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess:
        result = getiaction_launch(*words, **env)
        assert result.returncode == 0, result.stdout + result.stderr
        return result

    return run
