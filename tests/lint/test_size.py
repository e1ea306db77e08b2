"""Files and folders stay small enough to be understood alone."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 350
MAX_FOLDER_LINES = 2000
FILES = sorted(
    path for name in ("getiaction", "getiaction_launch") for path in (ROOT / name).rglob("*.py")
)
FOLDERS = sorted({path.parent for path in FILES if path.is_relative_to(ROOT / "getiaction_launch")})


def lines_of(path: Path) -> int:
    """How many lines a file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_file_is_too_long():
    """A file holds one subject, in at most 350 lines."""
    long = {str(path.relative_to(ROOT)): lines_of(path) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > MAX_FILE_LINES} == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_folder_is_too_large(folder):
    """The own files of a folder of the launcher have at most 2,000 lines together."""
    assert sum(lines_of(path) for path in folder.glob("*.py")) <= MAX_FOLDER_LINES


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_folder_says_what_it_is(folder):
    """Each folder's ``__init__.py`` starts with a sentence for who opens it."""
    assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""')
