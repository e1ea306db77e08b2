"""Lint, types and architecture are tests like the others."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    # Ruff takes the oldest Python from pyproject.toml; names that it lacks are mypy's to find.
    "mypy on Python 3.10": ["mypy", "--python-version", "3.10"],
    "mypy on Python 3.13": ["mypy", "--python-version", "3.13"],
    "import-linter": ["lint-imports", "--no-cache"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_tool_finds_nothing(name):
    """Every rule of pyproject.toml is kept."""
    command = COMMANDS[name]
    tool = Path(sys.executable).with_name(command[0])
    result = subprocess.run(
        [str(tool), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
