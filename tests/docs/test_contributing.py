"""CONTRIBUTING.md: its commands can be typed, and what it names exists."""

import re
import shlex

import pytest
from clusters import browser, ceph, debian, shells, slurm, ssh
from reader import ROOT, blocks, shell

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SETUP, TESTS, OLDEST, _SITE = (code for kind, code in blocks("CONTRIBUTING.md") if kind == "bash")
PACKAGES, REQUIRE, RELEASE, GPU = (code for kind, code in blocks("CONTRIBUTING.md") if not kind)
BY_HAND = re.findall(r"`(?:\w+=\S+ )?(python tests/clusters/.*?)`", PAGE)


def test_packages_are_those_that_tests_want():
    """The packages are those that skipped tests and `.ci/run` name."""
    needed = (slurm, ceph, browser, shells, ssh)
    assert PACKAGES.splitlines() == [each.INSTALL for each in needed]
    assert RELEASE.splitlines()[0] == debian.INSTALL
    assert f"`{debian.CACHE / slurm.SUITE}`" in PAGE


def test_required_clusters_are_those_of_the_fixtures():
    """Each cluster that the page requires is one without which tests are skipped."""
    apart = set(re.findall(r"^GETIACTION_TEST_REQUIRE=(\w+)", RELEASE + GPU, re.MULTILINE))
    known = set(re.findall(r'skip_without\("(\w+)"', (ROOT / "tests/conftest.py").read_text()))
    assert set(re.search(r"=(\S+) pytest", REQUIRE)[1].split(",")) == known - apart
    assert REQUIRE.split()[0] in (ROOT / ".ci/run").read_text()


def test_setup_is_that_of_the_readme():
    """It makes the same environment, and installs what the README's test command needs."""
    environment, install = SETUP.splitlines()
    readme = (ROOT / "README.md").read_text()
    assert f"\n{environment}\n" in readme
    assert f"\n{install.replace('-e ', '')} && pytest\n" in readme


@pytest.mark.parametrize(
    "command", [*TESTS.splitlines(), *RELEASE.splitlines()[1:], *GPU.splitlines()]
)
def test_commands_find_tests(command):
    """What they name are tests; collecting is enough, as they are part of this run."""
    result = shell(f"{command.replace('-n1', '-n0')} --collect-only -q", ROOT)
    assert result.returncode == 0, result.stdout
    assert re.search(r"[1-9]\d* tests collected", result.stdout)


def test_the_oldest_versions_are_tested_on_every_part():
    """The command installs the file that tests/lint checks, and selects tests of each folder."""
    environment, install, run = OLDEST.strip().split(" && ")
    assert environment == "python3 -m venv oldest"
    assert "-c constraints-oldest.txt -e" in install
    command = re.sub(r"^.*?oldest/bin/", "", run)
    result = shell(f"{command} --numprocesses=0 --collect-only -q", ROOT)
    assert result.returncode == 0, result.stdout
    found = set(re.findall(r"^tests/[\w/]+\.py", result.stdout, re.MULTILINE))
    files = {"tests/unit/test_spec.py", "tests/contract/test_backend.py"}
    assert files | {"tests/contract/test_ray.py", "tests/contract/test_local.py"} <= found
    assert "tests/contract/test_slurm.py" not in found


@pytest.mark.parametrize("command", BY_HAND)
def test_clusters_by_hand_can_be_typed(command):
    """Each script has the verb; tests/clusters starts these clusters in the same way."""
    words = shlex.split(command[: command.index(" -- ")])
    *script, verb = words
    assert verb in shell(f"{shlex.join(script)} --help", ROOT).stdout


def test_names_exist():
    """Files, folders and fixtures that the page names are there."""
    for name in re.findall(
        r"`((?:tests|docs|cluster_configs|benchmarks|getiaction)(?:/[\w./]+)?/?)`", PAGE
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:backends|cli|launch|plan|report|run|worker)/[\w./]+)`", PAGE):
        assert (ROOT / "getiaction_launch" / name).exists(), name
    fixtures = (ROOT / "tests/conftest.py").read_text()
    (line,) = re.findall(r"use the fixtures (.*)\n", PAGE)
    assert [name for name in re.findall(r"`(\w+)`", line) if f"def {name}(" not in fixtures] == []
