"""docs/slurm.md: its commands run on a real SLURM, and its tables say what the code says."""

import json
import re
from pathlib import Path

import pytest
from clusters import ordinary_user
from reader import shell

from getiaction_launch import errors
from getiaction_launch.backends.flag import settings_of
from getiaction_launch.backends.slurm.settings import SlurmSettings
from getiaction_launch.cli import follow as report
from getiaction_launch.cli import main as cli
from getiaction_launch.cli.grammar import RESTARTS
from getiaction_launch.launch.cluster import read_cluster
from getiaction_launch.run.state import JobState

PAGE = (Path(__file__).parents[2] / "docs/slurm.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
FIRST_RUN, BY_HAND = (code for kind, code in BLOCKS if kind == "bash")


@pytest.fixture
def on_login_node(slurm_cluster, clone):
    """Type a line where the page's reader is, who is an ordinary user."""
    ordinary_user.own(clone)

    def run(line: str) -> str:
        result = shell(line, clone, slurm_cluster.login_of_user(clone))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    return run


def test_first_run_and_its_script_by_hand(on_login_node):
    """The run says what is shown; its script, given to sbatch, trains as a run of its own."""
    said = on_login_node(FIRST_RUN)
    shown = next(code for kind, code in BLOCKS if not kind and "act_tiny/version_0" in code)
    assert [line.split()[0] for line in said.splitlines()] == [
        line.split()[0] for line in shown.splitlines()
    ]
    on_login_node("getiaction-launch cancel @last")  # the next one trains to its end
    on_login_node(BY_HAND)
    runs = json.loads(on_login_node("getiaction-launch ls --json"))["runs"]
    assert [run["run"] for run in runs] == ["act_tiny/version_1", "act_tiny/version_0"]
    assert runs[0]["state"] == "SUCCEEDED"


def test_cluster_config_is_one(tmp_path):
    """The config of the page is read, and says what it says."""
    (code,) = (code for kind, code in BLOCKS if kind == "yaml")
    (tmp_path / "mylab.yaml").write_text(code)
    config = read_cluster(tmp_path / "mylab.yaml")
    assert (config.forward_env_vars, config.restarts.node_failures) == (["WANDB_API_KEY"], 3)
    assert config.backend.partition == "gpu"


def test_flags_are_in_the_table():
    """Every flag for this cluster's settings is told of, with the key that it sets."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| `-")]
    table = "\n".join(rows) + PAGE[PAGE.index("- The flags `--max-crashes`") :]
    flags = {setting.name: setting.flag for setting in settings_of(SlurmSettings)}
    flags |= {key.rpartition(".")[2]: flag for key, (flag, _) in RESTARTS.items()}
    for key, flag in flags.items():
        assert f"`{flag.names[0]}" in table
        assert key == "dependency" or f"`{key}`" in table or f"{key}:" in PAGE


def test_exit_codes_and_states_are_in_their_tables():
    """Nothing is missing, and nothing is told that is not there."""
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    classes = vars(errors).values()
    by_error = {c.exit_code for c in classes if getattr(c, "exit_code", None)} - {1}
    by_run = {report.EXIT_FAILED, report.EXIT_CANCELLED, *report.EXIT_CODES.values()}
    assert told == {0, cli.EXIT_INTERRUPTED} | by_error | by_run
    states = set(re.findall(r"^\| ([A-Z]+) \|", PAGE, re.MULTILINE))
    assert states == {state.value for state in JobState}
