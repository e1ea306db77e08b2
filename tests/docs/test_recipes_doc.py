"""docs/recipes.md: its cluster configs are read, and reach the batch script as the page says."""

import re
import shlex

import pytest
import yaml
from reader import ROOT, blocks

from getiaction_launch.backends.slurm import SlurmBackend
from getiaction_launch.cli.launching import prepare
from getiaction_launch.cli.main import VERBS, root_parser
from getiaction_launch.launch.cluster import read_cluster

PAGE = (ROOT / "docs/recipes.md").read_text()
BLOCKS = blocks("docs/recipes.md")
CONFIGS = [code for kind, code in BLOCKS if kind == "yaml" and not code.startswith("hydra:")]


def script_of(code, clone):
    """Return the batch script of a run on a cluster with this config."""
    (clone / "mylab.yaml").write_text(code)
    tokens = ["--cluster", "./mylab.yaml", "--nodes", "2", "--gpus-per-node", "0", "train.py"]
    (clone / "train.py").write_text("print()\n")
    _, (plan,), backend = prepare(tokens, root_parser(), free_gpus=lambda _: None)
    return "\n".join(backend.describe(plan))


@pytest.mark.parametrize("code", CONFIGS, ids=lambda code: code.split()[-1])
def test_config_is_one(code, tmp_path):
    """Every key of it is known, and has the type of its field."""
    backend = {"class_path": "getiaction_launch.backends.slurm.SlurmBackend"}
    whole = {"backend": backend, **yaml.safe_load(code)}  # some are lines to add to a config
    (tmp_path / "mylab.yaml").write_text(yaml.safe_dump(whole))
    assert isinstance(read_cluster(tmp_path / "mylab.yaml").backend, SlurmBackend)


def test_settings_reach_the_batch_script(clone, monkeypatch):
    """The environment is activated before srun, and containers get their options."""
    monkeypatch.chdir(clone)
    conda, apptainer, pyxis = (code for code in CONFIGS if "SlurmBackend" in code)
    activation, command = script_of(conda, clone).split("\nsrun ")
    assert "\nconda activate act" in activation
    assert "apptainer exec --nv --bind /shared ~/act.sif python" in script_of(apptainer, clone)
    _, command = script_of(pyxis, clone).split("\nsrun ")
    options = set(shlex.split(command))
    assert {"--container-image=/shared/act.sqsh", "--container-mounts=/shared:/shared"} <= options
    assert "python" in options


def test_folds_are_those_of_the_program_that_is_tested():
    """tests/contract/test_programs.py interrupts it."""
    (code,) = (code for kind, code in BLOCKS if kind == "python" and "fold" in code)
    assert code in (ROOT / "tests/contract/programs/folds.py").read_text()
    assert "folds" in (ROOT / "tests/contract/test_programs.py").read_text()


def test_verbs_exist():
    """Commands without a verb start a run, which has flags or a script."""
    found = re.findall(r"^ *(?:uv run \S+ )?getiaction-launch (\S+)", PAGE, re.MULTILINE)
    assert found
    assert [word for word in found if word[:2] != "--" and word not in VERBS] == []
