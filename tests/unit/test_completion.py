"""The verb ``completion``: what bash, zsh and fish complete when TAB is pressed."""

import subprocess
from pathlib import Path

import pytest
from clusters.shells import candidates, press_tab

from getiaction_launch.cli.completing import verb
from getiaction_launch.cli.main import VERBS

NAMES = Path(verb.__file__).with_name("names.sh")
TABS = {
    "stat": "status",
    "status act/version_1 --js": "--json",
    "--clus": "--cluster",
    "--cluster ray-on": "ray-on-slurm",
    "--cluster=min": "--cluster=mine",
    "status ac": "act/version_0",
    "cancel act/version_0 ac": "act/version_0",
    "logs -f @l": "@last",
    "status --root past ot": "other/version_7",
    "status --root=past ot": "other/version_7",
    "status --cluster mine el": "else/version_3",
    "completion fi": "fish",
    "--nodes 2 tra": "train.py",
    "run tra": "train.py",
    "train.py --data da": "data.bin",
}
"""By what is typed: the word at its end that TAB completes it to."""


def make_run(directory):
    """Make what a name is found by, and no more."""
    (directory / "launch").mkdir(parents=True)
    (directory / "launch/plan.json").write_text("{}")


def names(directory, what="runs", typed="", *configs, **env):
    """Return the names that a shell would complete a word from."""
    done = subprocess.run(
        ["/bin/sh", str(NAMES), *map(str, configs)],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "HOME": str(directory), "NAMES": what, "TYPED": typed, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def place(tmp_path):
    """A directory with runs here and elsewhere, a cluster config and a script."""
    for run in ("experiments/act/version_0", "past/other/version_7"):
        make_run(tmp_path / run)
    make_run(tmp_path / "far away/experiments/else/version_3")
    (tmp_path / "cluster_configs").mkdir()
    config = f'storage_root: "{tmp_path}/far away" # here\n'
    (tmp_path / "cluster_configs/mine.yaml").write_text(config)
    for name in ("train.py", "data.bin"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.usefixtures("_shells")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completes_the_word(shell, place):
    """Verbs, flags, clusters, runs, scripts, and behind a script any file."""
    script = place / "script"
    script.write_text(verb.script(shell))
    if shell == "fish":
        found = {line: candidates(script, line, place) for line in TABS}
        assert found == {line: [word] for line, word in TABS.items()}
        return
    words = press_tab(shell, script, list(TABS), place)
    assert words == [[*line.split()[:-1], word] for line, word in TABS.items()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_verb_is_completed(shell):
    """None is forgotten when one is added."""
    text = verb.script(shell)
    assert [name for name in VERBS if name not in text] == []


def test_names_with_a_meaning_in_a_shell_are_left_out(tmp_path):
    """A shell inserts a name as it is, and Enter would run what somebody has put into it."""
    for name in (
        "$(touch pwned)",
        "a;b",
        "two words",
        "-rf",
        "=x",
        "~root",
        "line\nbreak",
        "good.1",
    ):
        make_run(tmp_path / "experiments" / name / "version_0")
        (tmp_path / f"cluster_configs/{name}.yaml").parent.mkdir(exist_ok=True)
        (tmp_path / f"cluster_configs/{name}.yaml").touch()
    assert names(tmp_path) == ["@last", "good.1/version_0"]
    assert names(tmp_path, "clusters", "", "cluster_configs") == ["good.1"]


def test_runs_are_looked_for_where_verbs_look(place):
    """The typed root, that of the variable, that of the cluster, then ./experiments."""
    here, other, far = "act/version_0", "other/version_7", "else/version_3"
    root = {"GETIACTION_LAUNCH_STORAGE_ROOT": f"{place}/far away/"}
    cluster = {"GETIACTION_LAUNCH_CLUSTER": "mine"}
    configs = (place / "nowhere", place / "cluster_configs")
    assert names(place, "runs", "") == ["@last", here]
    assert names(place, "runs", "", **root) == ["@last", far]
    assert names(place, "runs", "", *configs, **cluster) == ["@last", far]
    assert names(place, "runs", "--cluster\ncluster_configs/mine.yaml") == ["@last", far]
    assert names(place, "runs", "--root\n~/past", **root) == ["@last", other]
    assert names(place, "runs", "--root\n=\npast", **root) == ["@last", other]


@pytest.mark.parametrize("line", ["storage_root: s3://bucket/x", "storage_root: 's3://bucket/x'"])
def test_remote_storage_is_not_asked(place, line):
    """Each TAB would send a request."""
    (place / "cluster_configs/mine.yaml").write_text(f"{line}\n")
    assert names(place, "runs", "--cluster=mine", place / "cluster_configs") == []


@pytest.mark.parametrize("line", ["'{}/far away'", '"{}/far away"  # here', "{}/far away/ # here"])
def test_root_of_a_cluster_is_read_as_yaml(place, line):
    """With any quotes, and without the comment behind it."""
    config = place / "cluster_configs/mine.yaml"
    config.write_text(f"env_vars: {{}}\nstorage_root: {line.format(place)}\n")
    assert names(place, "runs", f"--cluster={config}") == ["@last", "else/version_3"]


def test_cluster_without_a_root(place):
    """Its runs are in ./experiments."""
    for line in ("storage_root: null # here", "storage_root:", "storage_root: # null"):
        (place / "cluster_configs/mine.yaml").write_text(f"{line}\n")
        typed = "--cluster=mine"
        assert names(place, "runs", typed, place / "cluster_configs") == ["@last", "act/version_0"]


def test_runs_of_another_machine_are_not_asked_for(place):
    """Those in the directory here are others, and each TAB would call ssh."""
    (place / "cluster_configs/mine.yaml").write_text("ssh: me@login\n")
    typed = "--cluster=mine"
    assert names(place, "runs", typed, place / "cluster_configs") == ["@last"]
    for line in ("ssh: null # here", "ssh:", "ssh: ~"):
        (place / "cluster_configs/mine.yaml").write_text(f"{line}\n")
        assert "act/version_0" in names(place, "runs", typed, place / "cluster_configs")


def test_directory_with_a_quote(tmp_path, monkeypatch):
    """The script is loaded by the shell: no path may end the word it stands in."""
    (tmp_path / "it's").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "it's"))
    text = verb.script("bash")
    subprocess.run(["/bin/bash", "-n"], input=text, text=True, check=True, timeout=60)
    assert "it'\"'\"'s" in text
