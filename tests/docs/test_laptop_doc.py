"""docs/laptop.md: its config is one, and it says what is said; tests/ssh type its commands."""

import re

from reader import ROOT, blocks

from getiaction_launch.cli.main import VERBS
from getiaction_launch.cli.over_ssh.command import AGAIN, BESIDE, COPYING, LOOKING, STARTING
from getiaction_launch.launch.cluster import read_cluster
from getiaction_launch.ssh.login import PERSIST

PAGE = (ROOT / "docs/laptop.md").read_text()
ROWS = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]


def test_cluster_config_is_one(tmp_path):
    """The config of the page is read, and says what the page needs."""
    (code,) = (code for kind, code in blocks("docs/laptop.md") if kind == "yaml")
    (tmp_path / "mylab.yaml").write_text(code)
    config = read_cluster(tmp_path / "mylab.yaml")
    assert config.ssh == "me@login.cluster"
    assert config.ssh_options == ["-o", "ProxyJump=me@gate.cluster"]
    assert (config.ssh_directory, config.ssh_command) == (
        "~/robot",
        "~/venv/bin/getiaction-launch",
    )


def test_each_verb_has_a_row():
    """In the row of what it does: start, again, look or act there, copy, or none of it."""
    rows = [re.findall(r"`([a-z]+)[^`]*`", names) for names, *_ in ROWS]
    named = (set(row) for row in rows if set(row) & {*VERBS})
    started, again, there, beside, pulled, curves, here = named
    assert (started, again, there) == (STARTING, AGAIN, LOOKING)
    assert beside == {BESIDE}
    assert pulled | curves == COPYING
    assert here | {"version"} == set(VERBS) - STARTING - AGAIN - LOOKING - COPYING - {BESIDE}


def test_errors_are_those_of_the_code():
    """Each error of the table has the words of the code."""
    source = (ROOT / "getiaction_launch/ssh/client.py").read_text()
    errors = [row[0].strip("|` ") for row in ROWS if "me@login.cluster" in row[0]]
    assert len(errors) == 3
    for error in errors:
        for part in re.split(r"me@login\.cluster|'[^']*'", error):
            assert part.strip(" ,") in source, part
    assert PERSIST == "10m"
    assert "for ten minutes" in PAGE
