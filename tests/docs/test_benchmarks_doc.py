"""docs/benchmarks.md: each of its commands can be typed; README.md repeats its figures."""

import re
import shlex

import pytest
from reader import ROOT, blocks, shell

PAGE = (ROOT / "docs/benchmarks.md").read_text()
COLUMNS = 5
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in PAGE.splitlines()
    if re.match(r"\|(?! what |---)", line) and line.count("|") == COLUMNS + 1
]
CODE = "".join(code for _, code in blocks("docs/benchmarks.md"))
COMMANDS = {*re.findall(r"`(python [^`]*)`", PAGE), *CODE.splitlines()} - {"python -c pass"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_command_can_be_typed(command):
    """Its script and its flags exist. They are not run: together they take hours."""
    words = shlex.split(command)
    script = next(word for word in reversed(words) if word.startswith("benchmarks/"))
    flags = {word for word in words[words.index(script) :] if word.startswith("--")}
    source = (ROOT / script).read_text()
    assert [flag for flag in flags if f'add_argument("{flag}"' not in source] == []
    if "tests/clusters/s3.py" in words:
        assert "run" in shell("python tests/clusters/s3.py --help", ROOT).stdout


def test_every_row_has_its_command():
    """The last cell is the command that measures the row, written in full."""
    assert len(ROWS) == 46
    assert [row for row in ROWS if row[-1].strip("`") not in COMMANDS] == []


def test_every_benchmark_is_on_the_page():
    """Each script that is typed, and not imported by another one."""
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    helpers = {"faults.py", "hanging.py", "pairs.py", "rivals.py", "stopwatch.py", "two_cameras.py"}
    helpers |= {"with_ray_train.py"}
    assert {name for name in scripts if f"benchmarks/{name}" in PAGE} == scripts - helpers


def test_readme_repeats_rows_of_the_page():
    """The same words and figures stand there, without the command."""
    rows = re.findall(r"^\| (.*\| [\d.]+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == 4
    assert [row for row in rows if f"| {row} | `python " not in PAGE] == []
