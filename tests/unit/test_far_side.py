"""What the login node does with a command of a laptop, without the ssh between them."""

import json
import signal
import sys
from types import SimpleNamespace

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
