"""docs/cli.md: its commands are typed in their order, and answer what the page shows."""

import re
from pathlib import Path

import pytest
from reader import blocks, examples, settled, shell

from getiaction_launch import errors
from getiaction_launch.cli import follow, main

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
BLOCKS = blocks("docs/cli.md")


@pytest.fixture
def reader(clone):
    """Type a line where the page's reader is, who leaves nothing behind that still runs."""
    yield lambda line: shell(line, clone)
    shell("getiaction-launch cancel hello/version_0", clone)


def test_commands_in_their_order(clone, reader):
    """Each answers as shown; only an error that is shown may be one."""
    (program,) = (code for kind, code in BLOCKS if kind == "python")
    (clone / "hello.py").write_text(program)
    for kind, code in BLOCKS:
        if kind == "bash":
            for command in code.splitlines():
                result = reader(command)
                assert result.returncode == 0, command + result.stderr
        for command, shown in examples(code):
            result = reader(command)
            said = result.stdout or result.stderr
            assert settled(said) == settled(shown), command
            if re.match(r"run .* FAILED\n", shown):
                assert result.returncode == follow.EXIT_FAILED, command
            else:
                assert (result.returncode != 0) is shown.startswith("error: "), command


def test_exit_codes_are_those_of_the_code():
    """Nothing is missing, and nothing is told that is not there."""
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    by_error = {c.exit_code for c in vars(errors).values() if hasattr(c, "exit_code")} - {1}
    by_run = {follow.EXIT_FAILED, follow.EXIT_CANCELLED, *follow.EXIT_CODES.values()}
    assert told == {0, main.EXIT_INTERRUPTED} | by_error | by_run


@pytest.mark.parametrize("verb", sorted(main.VERBS.keys() - {"run"}))
def test_each_verb_is_told_of(verb):
    """By its name and what it does."""
    assert re.search(rf"^\| `{verb}\b|^`{verb}` ", PAGE, re.MULTILINE)
