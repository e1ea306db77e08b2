"""docs/what-can-go-wrong.md names for each row the tests that show it."""

import ast
import functools
import re
from pathlib import Path

import pytest
from reader import ROOT

LINES = (ROOT / "docs/what-can-go-wrong.md").read_text().splitlines()
ROWS = [line for line in LINES if re.match(r"\| (?!-|what goes wrong)", line)]


@functools.cache
def names_in(path: Path) -> set[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_page_has_rows():
    """The table is found, whatever else the page says."""
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_each_row_names_tests_that_exist(row):
    """The last cell links a file of tests, and names functions in it."""
    goes_wrong, happens, shown = (cell.strip() for cell in row.strip("|").split(" | "))
    assert goes_wrong
    assert happens
    found = re.findall(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)", shown)
    assert found
    assert ", ".join(f"[`{name}`](../{path})" for name, path in found) == shown
    for name, path in found:
        assert name in names_in(ROOT / path), (name, path)
