"""docs/cli.md: its commands are typed in their order, and answer what the page shows."""

import re
from pathlib import Path

import pytest
from reader import shell

from getiaction_launch import errors
from getiaction_launch.cli import follow, main

PAGE = (Path(__file__).parents[2] / "docs/cli.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
VARYING = {
    r"\S+@\S+": "JOB",
    r"/\S*/experiments": "DIR/experiments",
    r"\([\w.-]+\): ": "(HOST): ",
    r"sweep-[0-9a-f]{8}": "SWEEP",
    r"(?<![=\w.])\d+(\.\d+)?(e-?\d+)?(?=  | min|$)": "N",  # losses, steps and ages
    r"  +": "  ",  # columns are as wide as what stands in them
}


def settled(text: str) -> list[str]:
    """The lines of an answer without what differs between two readers."""
    for pattern, name in VARYING.items():
        text = re.sub(pattern, name, text, flags=re.MULTILINE)
    return text.rstrip().splitlines()


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
        for example in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
            command, _, shown = example.partition("\n")
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


def test_links_lead_to_headings():
    """Those to other pages' sections are as these are called."""
    for page, anchor in re.findall(r"\]\((\w+\.md)(?:#([\w-]+))?\)", PAGE):
        text = (Path(__file__).parents[2] / "docs" / page).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in headings}
        assert not anchor or anchor in anchors, (page, anchor)
