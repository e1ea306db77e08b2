"""docs/local.md: its commands are typed, and its flags and defaults are those of the code."""

import re

import pytest
from reader import ROOT, blocks, shell

from getiaction_launch.plan.plan import Restarts

PAGE = (ROOT / "docs/local.md").read_text()
((_, COMMANDS),) = blocks("docs/local.md")


@pytest.fixture
def reader(clone):
    """Type a line where the page's reader is, who leaves nothing behind that still runs."""
    yield lambda line: shell(line, clone)
    shell("getiaction-launch cancel act_tiny/version_0", clone)


def test_run_is_started_looked_at_and_ended(reader):
    """Each line works in turn; a time limit is refused."""
    for line in COMMANDS.splitlines():
        result = reader(line)
        assert result.returncode == 0, line + result.stderr
    start, *_ = COMMANDS.splitlines()
    assert reader(start.replace("--nodes", "-t 10 --nodes")).returncode == 2


def test_defaults_are_those_of_the_code():
    """How many restarts a run gets after a lost node, and after a crash."""
    assert Restarts() == Restarts(crashes=0, node_failures=3)
    assert re.search(r"three times by default \(`--max-node-failures`\)", PAGE)
