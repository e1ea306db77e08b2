"""README.md: its commands and code blocks run, and what they print is what it shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from clusters.slurm import INSTALL
from reader import shell

from getiaction_launch.cli.main import VERBS

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


def test_main_command_trains_and_says_what_to_do_next(clone):
    """The first command, after its installation, ends with what the README shows."""
    install, run = next(code for kind, code in BLOCKS if kind == "bash").split(" && ")
    assert install == "pip install -c constraints.txt ."
    result = shell(run, clone)
    assert result.returncode == 0, result.stderr
    shown = next(code for kind, code in BLOCKS if not kind and "act_tiny/version_0" in code)
    keys = [line.split("  ")[0] for line in shown.splitlines()]
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == keys
    assert float(re.search(r"train/loss ([\d.]+)", result.stdout)[1]) < 10
    assert (clone / "experiments/act_tiny/version_0/launch/done.json").is_file()


def test_error_is_the_one_that_is_shown(clone):
    """The misspelt key of the README is answered with the README's words."""
    (shown,) = (code for kind, code in BLOCKS if code.startswith("$ "))
    command, _, answer = shown.removeprefix("$ ").partition("\n")
    result = shell(command, clone)
    assert (result.returncode, result.stderr) == (2, answer)


def test_python_block_launches(clone):
    """The block that launches from Python trains and prints how it ended."""
    (code,) = (code for kind, code in BLOCKS if kind == "python" and "launch" in code)
    (clone / "block.py").write_text(code)
    result = shell("python block.py", clone)
    assert result.stdout == "JobState.SUCCEEDED\n", result.stderr


def test_laptop_script_trains(clone, shortened):
    """The script of the README makes its first step; see ``shortened`` for what stands in."""
    (code,) = (code for kind, code in BLOCKS if kind == "python" and "ACT()" in code)
    (clone / "train.py").write_text(code)
    subprocess.run([sys.executable, "train.py"], cwd=clone, env=shortened, check=True, timeout=240)
    assert (clone / "experiments/pusht_act_v1/version_0/hparams.yaml").is_file()


def test_install_line_of_slurm_is_the_one_that_tests_want():
    """The packages that the README names are those that skipped tests and .ci/run name."""
    assert f"\n```\n{INSTALL}\n```\n" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/slurm.md"])
def test_commands_that_are_shown_exist(clone, page):
    """Every verb and flag on the page is one of the command line's."""
    text = (ROOT / page).read_text()
    # After these words flags are somebody else's.
    own = re.sub(
        r"(train\.py|tensorboard|benchmarks|apt-get|sbatch --|SBATCH|apptainer).*", "", text
    )
    verbs = set(re.findall(r"^getiaction-launch ([a-z]+)\b", own, re.MULTILINE))
    assert verbs <= set(VERBS), verbs - set(VERBS)
    known = shell("getiaction-launch --help; getiaction-launch logs --help", clone).stdout
    flags = set(re.findall(r"(?<=\s)`?(--[a-z][a-z-]+)", own))
    assert flags
    assert not [flag for flag in flags if flag not in known]
