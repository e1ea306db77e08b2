"""README.md: its commands and code blocks run, and what they print is what it shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(
    r"^```(\w*)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what a clone has at the places that the README names."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "cluster_configs", tmp_path / "cluster_configs")
    return tmp_path


def shell(command: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command line as the README's reader would, with this environment's programs."""
    programs = str(Path(sys.executable).parent)
    return subprocess.run(
        ["bash", "-c", command],  # noqa: S607 - the reader's own bash
        cwd=directory,
        env={
            **os.environ,
            "PATH": programs + os.pathsep + os.environ["PATH"],
            "GETIACTION_CACHE": str(directory / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
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


def test_commands_that_are_shown_exist(clone):
    """Every verb and flag in the README is one of the command line's."""
    text = (ROOT / "README.md").read_text()
    verbs = set(re.findall(r"getiaction-launch (ls|status|logs|cancel|clusters|check)\b", text))
    for verb in verbs | {""}:
        assert shell(f"getiaction-launch {verb} --help", clone).returncode == 0
    known = shell("getiaction-launch --help; getiaction-launch logs --help", clone).stdout
    launchers = re.sub(
        r"(train\.py|tensorboard|benchmarks).*", "", text
    )  # not the launcher's flags
    plain = set(re.findall(r"(?<=\s)`?(--[a-z][a-z-]+)", launchers))
    assert plain
    assert not [flag for flag in plain if flag not in known]
