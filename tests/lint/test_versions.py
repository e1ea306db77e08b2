"""The versions that were tested are those that pyproject.toml allows."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
DECLARED = re.search(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.DOTALL | re.MULTILINE)[1]
REQUIREMENTS = [Requirement(text) for text in re.findall(r'"(.+?)"', DECLARED)]
# The libraries whose releases break a launcher most often; the others are stable.
OLDEST = ("fsspec", "jsonargparse", "lightning", "ray", "s3fs", "submitit")


def pinned(name: str) -> dict[str, str]:
    """Return the versions that a constraints file names, by package."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {package.lower().replace("_", "-"): version for package, version in pairs}


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_tested_versions_are_allowed(name: str) -> None:
    """Each version that a constraints file names is one that pip would accept."""
    tested = pinned(name)
    for requirement in REQUIREMENTS:
        version = tested.get(requirement.name.lower().replace("_", "-"))
        assert version is None or version in requirement.specifier, str(requirement)


@pytest.mark.parametrize("package", OLDEST)
def test_the_oldest_versions_that_are_allowed_are_tested(package: str) -> None:
    """Each lower bound is the version in constraints-oldest.txt, and not a guess."""
    (bounds,) = (str(r.specifier) for r in REQUIREMENTS if r.name == package)
    assert f">={pinned('constraints-oldest.txt')[package]}" in bounds.split(",")


def test_torch_is_the_same_in_both() -> None:
    """The oldest versions are tested with the torch of the newest."""
    assert pinned("constraints-oldest.txt")["torch"] == pinned("constraints.txt")["torch"]
