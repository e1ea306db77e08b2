"""README.md: its commands and code blocks run, and what they print is what it shows."""

import itertools
import re
import subprocess
import sys

import pytest
from reader import ROOT, blocks, examples, settled, shell

from getiaction_launch.cli.launching import prepare
from getiaction_launch.cli.main import VERBS, main, root_parser

PAGE = (ROOT / "README.md").read_text()
BLOCKS = blocks("README.md")
ENVIRONMENT, MAIN, DETACHED, TESTS = (code for kind, code in BLOCKS if kind == "bash")
CLUSTERS = re.findall(r"^\| .*? \| `(.*?)` \|", PAGE, re.MULTILINE)


def test_environment_is_one_that_is_active(tmp_path):
    """The programs of the environment come first, and it has pip."""
    result = shell(f"{ENVIRONMENT.strip()} && command -v pip", tmp_path)
    assert result.stdout == f"{tmp_path}/.venv/bin/pip\n", result.stderr


def test_main_command_then_the_users_script(clone):
    """The first command, after its installation, and those after it print what is shown."""
    install, run = MAIN.split(" && ")
    assert install == "pip install -c constraints.txt ."
    result = shell(run, clone)
    assert result.returncode == 0, result.stderr
    shown = next(code for kind, code in BLOCKS if not kind and "act_tiny/version_0" in code)
    assert settled(result.stdout) == settled(shown)
    assert float(re.search(r"train/loss ([\d.]+)", result.stdout)[1]) < 10
    assert (clone / "experiments/act_tiny/version_0/launch/done.json").is_file()
    consoles = [code for kind, code in BLOCKS if kind == "console"]
    for command, shown in itertools.chain.from_iterable(map(examples, consoles)):
        result = shell(command, clone)
        assert settled(result.stdout or result.stderr) == settled(shown), command
        assert result.returncode == (2 if shown.startswith("error: ") else 0)


def test_detached_run_is_followed_from_other_shells(clone, monkeypatch):
    """Each line of the block works in turn, and the resumed run is trained to its end.

    Its epochs are short, which none of the lines shows.
    """
    monkeypatch.setenv("PL_TRAINER_LIMIT_TRAIN_BATCHES", "3")
    for line in DETACHED.splitlines():
        result = shell(line, clone)
        assert result.returncode == 0, line + result.stderr
    status = shell("getiaction-launch status @last", clone).stdout
    assert status.startswith("run          train/version_0 SUCCEEDED")
    assert "/epoch=2-step=9.ckpt  (last)" in status


def test_python_block_launches(clone):
    """The block that launches from Python trains and prints how it ended."""
    (code,) = (code for kind, code in BLOCKS if kind == "python" and "launch" in code)
    (clone / "block.py").write_text(code)
    result = shell("python block.py", clone)
    assert result.stdout == "JobState.SUCCEEDED\n", result.stderr


def test_robot_script_trains(clone, shortened):
    """The script of the README makes its first step; see ``shortened`` for what stands in."""
    (code,) = (code for kind, code in BLOCKS if kind == "python" and "ACT()" in code)
    (clone / "train.py").write_text(code)
    subprocess.run([sys.executable, "train.py"], cwd=clone, env=shortened, check=True, timeout=240)
    assert (clone / "experiments/pusht_act_v1/version_0/hparams.yaml").is_file()


def test_tests_are_run_by_the_line_that_ci_looks_for():
    """`.ci/run` takes the first line with this end."""
    assert [TESTS.strip()] == re.findall(r"^.*&& pytest$", PAGE, re.MULTILINE)


def test_table_has_each_kind_of_cluster():
    """Every cluster config that is shipped can be reached from a row."""
    assert len(CLUSTERS) == 5
    named = {"local", *re.findall(r"--cluster (\S+)", "\n".join(CLUSTERS))}
    assert {path.stem for path in (ROOT / "cluster_configs").iterdir()} - named == {"ray-local"}


@pytest.mark.parametrize("command", CLUSTERS)
def test_commands_of_the_table_make_a_plan(command, clone, monkeypatch):
    """Each is understood, up to where a scheduler would be asked; the guides' tests go further."""
    monkeypatch.chdir(clone)
    _, _, words = command.partition("getiaction-launch ")
    tokens = words.removeprefix("node ").split()
    _, (plan,), backend = prepare(tokens, root_parser(), free_gpus=lambda _: None)
    assert plan.topology.num_nodes == 2
    expected = {"slurm": "SlurmBackend", "ray": "RayBackend", "ray-on-slurm": "RayOnSlurmBackend"}
    cluster = re.search(r"--cluster (\S+)", command)
    assert type(backend).__name__ == (expected[cluster[1]] if cluster else "LocalBackend")


PAGES = ("README.md", *(f"docs/{name}.md" for name in ("slurm", "ray", "local", "laptop")))


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_are_shown_exist(capsys, page):
    """Every verb and flag on the page is one of the command line's."""
    text = (ROOT / page).read_text()
    # After these words flags are somebody else's.
    others = r"(train\.py|tensorboard|benchmarks|apt-get|sbatch --|SBATCH|apptainer|ray job).*"
    own = re.sub(others, "", text)
    verbs = set(re.findall(r"^getiaction-launch ([a-z]+)\b", own, re.MULTILINE))
    assert verbs <= set(VERBS), verbs - set(VERBS)
    for words in ([], *([verb] for verb in VERBS)):
        with pytest.raises(SystemExit, match="0"):
            main([*words, "--help"])
    known = capsys.readouterr().out
    flags = set(re.findall(r"(?<=\s)`?(--[a-z][a-z-]+)", own))
    assert flags
    assert not [flag for flag in flags if flag not in known]
