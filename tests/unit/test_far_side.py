"""What the login node does with a command of a laptop, without the ssh between them."""

import json
import signal
import sys
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from strangers import LOCAL, make_run

from getiaction_launch.cli.main import main
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.ssh import far_side
from getiaction_launch.ssh.message import Message, own_version

CONFIG = f"backend: {json.dumps(LOCAL)}\nsaving: {{period_minutes: 3}}\nenv_vars: {{SEED: '1'}}\n"


@pytest.fixture(autouse=True)
def started(tmp_path, monkeypatch, submitted):
    """The runs that were submitted on the login node, by somebody at a terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(far_side, "_rewrite", lambda *_, **__: None)
    before = signal.getsignal(signal.SIGHUP)
    yield submitted
    signal.signal(signal.SIGHUP, before)


def asked(*words: str, config: str = CONFIG, directory: str = ".") -> int:
    """Do what a laptop asks for, and return the exit code that it sees."""
    message = Message(own_version(), list(words), directory, "far", config)
    return main(["over-ssh", message.encode()])


def test_run_that_goes_on_stays_as_it_was(started, tmp_path, monkeypatch):
    """The cluster that was named says where the run is, and replaces nothing of its plan."""
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path / "store")
    words = ["--cluster=far", "train.py"]
    root = str(tmp_path / "store/experiments")
    plan = Plan("act", root, [], ["train.py"], Topology(1, 1, 0), "/", words=words)
    run = make_run("act", plan=plan.to_json())
    config = f"{CONFIG}storage_root: {tmp_path}/store\n"
    typed = ("resume", "--max-crashes=4", "act/version_0")
    assert asked(*typed, config=config, directory=str(tmp_path)) == 100
    assert [each.directory for each in started] == [run.directory]
    after = Plan.of(run)
    assert (after.saving, after.env_vars, after.restarts.crashes) == (plan.saving, {}, 4)
    assert after.words == ["--cluster=far", "--max-crashes=4", "train.py"]


def test_failing_disk_is_no_other_version(tmp_path, capsys):
    """What it says is said, with the exit code of what cannot be reached."""
    (tmp_path / "file").touch()
    assert asked("ls", directory=f"{tmp_path}/file/work") == 105
    assert f"error: {tmp_path}/file/work: Not a directory." in capsys.readouterr().err


def test_interrupt_before_the_command_is_one(monkeypatch):
    """The laptop is gone while its code arrives."""
    monkeypatch.setattr(far_side, "_receive", Mock(side_effect=KeyboardInterrupt))
    assert asked("ls") == 230


def test_failure_of_the_same_version_is_no_other_version(tmp_path, monkeypatch, capsys):
    """Its own words are above, and there is nothing to install."""
    (tmp_path / "ssh").write_text(
        '#!/bin/sh\ncase "$*" in\n'
        f"*-G*) ;; *--version*) echo getiaction-launch {own_version()} ;; *) exit 1 ;;\nesac\n"
    )
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "far.yaml").write_text(f"{CONFIG}ssh: me@login\n")
    assert main(["ls", "--cluster", str(tmp_path / "far.yaml")]) == 5
    said = capsys.readouterr().err
    assert "getiaction-launch failed on me@login (exit code 1); its message is above." in said
    assert "nstall" not in said


def test_json_of_a_program_is_its_own(tmp_path, capsys):
    """The error is for people then."""
    (tmp_path / "file").touch()
    words = ("exec", "@last", "--", "x", "--json")
    assert asked(*words, directory=f"{tmp_path}/file/work") == 105
    assert capsys.readouterr().out == ""
