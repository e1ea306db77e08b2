"""docs/new-backend.md shows the spool backend as it is, and its commands train on it."""

import re
import shutil
from pathlib import Path

from reader import shell

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/new-backend.md").read_text()


def blocks(language: str) -> list[str]:
    """What the page shows in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_code_is_that_of_the_backend():
    """Every Python block stands in the backend to the letter."""
    code = (ROOT / "tests/contract/spool.py").read_text()
    assert len(blocks("python")) > 5
    assert [block for block in blocks("python") if block not in code] == []
    assert len(code.splitlines()) < 215


def test_links_lead_somewhere():
    """Every file that the page names exists."""
    links = re.findall(r"\]\(\.\./([^)]+)\)", PAGE)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_commands_train_on_the_spool(clone):
    """The first block of commands starts the server, trains on two nodes and ends the server."""
    shutil.copytree(ROOT / "tests/contract", clone / "tests/contract")
    (clone / "spool.yaml").write_text(blocks("yaml")[0])
    result = shell(blocks("bash")[0], clone)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "SUCCEEDED" in result.stdout
