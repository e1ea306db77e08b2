"""docs/getting-started.md: its commands are typed in their order, from a clone to a resumed run."""

import re

import pytest
from reader import ROOT, blocks, examples, settled, shell

BLOCKS = blocks("docs/getting-started.md")
README = (ROOT / "README.md").read_text()
INSTALL, TRAIN, *SCRIPT = (code for kind, code in BLOCKS if kind == "bash")


@pytest.fixture
def reader(clone):
    """Type a line where the page's reader is, who leaves nothing behind that still runs."""
    (program,) = (code for kind, code in BLOCKS if kind == "python")
    (clone / "line.py").write_text(program)
    yield lambda line: shell(line, clone)
    shell("getiaction-launch cancel line/version_0", clone)


def test_install_and_first_run_are_those_of_the_readme():
    """They are run by the README's tests; the page has each of them in a line of its own."""
    environment, install = INSTALL.splitlines()
    assert f"\n{environment}\n" in README
    assert f"\n{install} && {TRAIN}" in README


def test_commands_in_their_order(reader):
    """Each answers as shown; the first run is a quarter as long here."""
    for kind, code in BLOCKS:
        if kind == "bash" and code != INSTALL:
            for line in code.splitlines():
                result = reader(f"{line} --trainer.max_epochs=1" if code == TRAIN else line)
                assert result.returncode == 0, line + result.stderr
        for command, shown in examples(code):
            result = reader(command)
            assert settled(result.stdout or result.stderr) == settled(shown), command
            assert result.returncode == (2 if shown.startswith("error: ") else 0)
    assert reader("getiaction-launch status @last").stdout.startswith(
        "run          line/version_0 CANCELLED"
    )


def test_commands_of_the_clusters_name_the_script():
    """They differ from the one on this machine in where they run only."""
    (shown,) = (code for kind, code in BLOCKS if not kind)
    (here,) = (line for line in SCRIPT[0].splitlines() if "line.py" in line)
    script = re.search(r"line\.py .*", here)[0]
    assert [line.endswith(script) for line in shown.splitlines()] == [True, True]
