"""docs/programs.md: what it shows can be typed."""

import shlex
import subprocess
import sys

import pytest
from reader import blocks, shell

from getiaction_launch.cli.grammar import launch_parser
from getiaction_launch.cli.typed.words import split_tokens

PAGE = blocks("docs/programs.md")
COMMANDS = [code for language, code in PAGE if language == "bash"]


def test_plain_ddp_can_be_launched(clone):
    """tests/contract/test_local.py runs it, interrupts and resumes it."""
    (command,) = (code for code in COMMANDS if "examples/" in code)
    done = shell(command.replace("--wait", "--dry-run"), clone)
    assert done.returncode == 0, done.stderr
    assert "when resumed" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_those_of_the_launcher(command):
    """Only the words before a command are parsed, since lerobot is not installed here."""
    program, *words = shlex.split(command.replace("\\\n", " "))
    assert program == "getiaction-launch"
    parser = launch_parser(program, "")
    own, overrides, typed = split_tokens(words, parser.value_flags)
    assert parser.parse(own).resume_args
    assert overrides == []
    assert typed


def test_progress_outside_of_a_launch_does_nothing():
    """A reader can paste the Python block and run it."""
    (code,) = (code for language, code in PAGE if language == "python")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
