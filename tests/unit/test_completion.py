"""The verb ``completion``: what bash, zsh and fish complete when TAB is pressed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from clusters.shells import candidates, press_tab

from getiaction_launch.cli.completing import verb
from getiaction_launch.cli.main import VERBS
from getiaction_launch.plan.spec import CLI_CLASS

POLICY = """
import dataclasses
from lightning.pytorch import LightningModule

raise SystemError("it must not be imported")

class Base(LightningModule):
    def __init__(self, gripper_width=1, *, _own=2): ...

class Policy(Base):
    def __init__(self, lr, **kwargs): ...

@dataclasses.dataclass
class Data:
    folder: str
    batch_size: int = 8
"""
KEYS = Path(verb.__file__).with_name("keys.py")
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
    "--config spec.yaml --trainer.max_ep": "--trainer.max_epochs=",
    "run --config=spec.yaml --model.grip": "--model.gripper_width=",
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
    (tmp_path / "spec.yaml").write_text("model: {class_path: policy.Policy}\n")
    (tmp_path / "policy.py").write_text(POLICY)
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


SPEC = """
model:
  class_path: policy.Policy
  init_args: {nowhere: {class_path: gone.Gone, init_args: {depth: 1}}}
data: policy.Data
trainer: {logger: {class_path: lightning.pytorch.loggers.CSVLogger}, "odd; key": 1}
"""


@pytest.fixture
def keys(place, monkeypatch):
    """What completes a word behind a spec, and the modules that were imported for that."""
    (place / "spec.yaml").write_text(SPEC)
    for name in ("yaml", "ast", "site"):  # not even if they are in the way
        (place / f"{name}.py").write_text("raise SystemError")
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def ask(word: str, *typed: str) -> tuple[list[str], set[str]]:
        words = ("--config", "spec.yaml", *typed)
        done = subprocess.run(
            [sys.executable, "-I", "-X", "importtime", str(KEYS), CLI_CLASS, word],
            cwd=place,
            env={**os.environ, "TYPED": "\n".join(words)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        lines = done.stderr.splitlines()
        assert all(line.startswith("import time:") for line in lines), done.stderr
        return done.stdout.split(), {line.rpartition("|")[2].strip() for line in lines}

    return ask


def test_keys_are_those_of_the_classes_that_a_spec_names(keys):
    """Read from their source, with those of their bases; ``init_args`` only where it is typed."""
    found, imported = keys("--model.")
    nested = ["nowhere", "nowhere.class_path", "nowhere.depth"]
    own = ["class_path", "lr", "gripper_width", *nested]
    assert found == [f"--model.{key}" for key in own]
    assert not imported & {"torch", "lightning", "ray", "getiaction", "getiaction_launch", "policy"}
    assert keys("--model.init_args.g")[0] == ["--model.init_args.gripper_width"]
    assert keys("--data.")[0] == [f"--data.{key}" for key in ("class_path", "folder", "batch_size")]
    times = ["max_epochs", "max_steps", "max_time"]
    assert keys("--trainer.max_")[0] == [f"--trainer.{key}" for key in times]
    assert keys("--trainer.logger.save")[0] == ["--trainer.logger.save_dir"]
    assert keys("--trainer.odd")[0] == []  # a shell would run what is behind the ";"


def test_class_that_is_typed_counts_before_that_of_the_spec(keys):
    """By its path or by a name that the parser of the spec knows, as ``--model ACT``."""
    assert "--model.chunk_size" in keys("--model.ch", "--model", "ACT")[0]
    typed = "--data.class_path=getiaction.data.LeRobotDataModule"
    assert "--data.episodes" in keys("--data.ep", typed)[0]
    assert keys("--optimizer.", "--optimizer=torch.optim.AdamW")[0][:3] == [
        *("--optimizer.class_path", "--optimizer.params", "--optimizer.lr")
    ]


@pytest.mark.parametrize("spec", ["model: [", "- 1", "model: {class_path: 3}", "model: *x", ""])
def test_spec_that_is_no_spec_has_no_keys(keys, place, spec):
    """A TAB never shows an error."""
    (place / "spec.yaml").write_text(spec)
    assert [key for key in keys("--model.")[0] if key != "--model.class_path"] == []
    (place / "spec.yaml").unlink()
    assert keys("--model.")[0] == []
