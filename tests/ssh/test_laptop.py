"""What is typed on a laptop happens on the login node, and only there."""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from clusters.ssh import HOST, typed

ODD = ["two words", "it's", '"', "$(touch pwned)", "`id`", "new\nline", "\\", "*", "--nodes", ""]
TRAIN = """
import json, os, sys
from . import lib, new
from .deep import far
print("trained", lib.WORDS, new.WORDS, flush=True)
seen = {"words": sys.argv[1:], "data": open("data.txt").read(), "file": lib.__file__}
seen |= {"uid": os.getuid(), "secret": os.environ.get("ROBOT_TOKEN")}
json.dump(seen, open("seen.json", "w"))
"""
SECRET = {"ROBOT_TOKEN": "s3cr3t"}
NAP = "import time\nprint('begun', flush=True)\ntime.sleep(600)\n"


def git(directory: Path, *words: str) -> None:
    """Run git as somebody."""
    identity = ["-c", "user.name=me", "-c", "user.email=me@laptop"]
    command = [shutil.which("git") or "git", *identity, *words]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


@pytest.fixture
def project(login_node) -> Path:
    """A repository on the laptop, with a changed module and one that git does not know yet."""
    package = login_node.laptop / "robot/package"
    (package / "deep").mkdir(parents=True)
    (package / "train.py").write_text(TRAIN)
    (package / "lib.py").write_text("WORDS = 'committed'\n")
    for name in ("__init__.py", "deep/__init__.py", "deep/far.py"):
        (package / name).touch()
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "all")
    (package / "lib.py").write_text("WORDS = 'changed'\n")
    (package / "new.py").write_text("WORDS = 'untracked'\n")
    work = login_node.home / "work"
    work.mkdir()
    work.chmod(0o777)
    (work / "data.txt").write_text("on the cluster")
    return package.parent


def test_code_travels_and_hints_are_for_the_laptop(login_node, laptop, project):
    """A module with relative imports trains as it is here, in the directory there, with its words.

    The hints can be pasted. Secrets are on no disk, stdout has nothing but the command's answer,
    and all commands share a connection.
    """
    login_node.describe(
        "getiaction_launch.backends.local.LocalBackend", forward_env_vars="[ROBOT_TOKEN, READ_BY]"
    )
    far = ("--cluster", str(login_node.config))
    words = ("-m", "package.train", "--", *ODD)
    done = laptop(*far, "--wait", *words, cwd=project, **SECRET)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("run          train/version_0 SUCCEEDED\n")
    assert "welcome to login.cluster" in done.stderr
    seen = json.loads((login_node.home / "work/seen.json").read_text())
    assert seen["words"] == ODD
    assert seen["data"] == "on the cluster"
    assert seen["uid"] != os.getuid()
    assert seen["secret"] == SECRET["ROBOT_TOKEN"]
    run = login_node.home / "work/experiments/train/version_0"
    plan = json.loads((run / "launch/plan.json").read_text())
    assert plan["code"]["root"] == str(project)
    assert plan["code"]["is_dirty"] is True
    assert plan["working_directory"] == str(login_node.home / "work")
    assert f"--cluster={login_node.config}" in plan["words"]
    assert not list((login_node.home / "staging").glob("arrival-*"))
    written = [path.read_text(errors="replace") for path in run.rglob("*") if path.is_file()]
    assert not any(SECRET["ROBOT_TOKEN"] in text for text in written)

    (hint,) = (line for line in done.stdout.splitlines() if line.startswith("logs"))
    pasted = hint.partition("getiaction-launch ")[2].split()
    logs = laptop(*pasted)
    assert logs.stdout == "trained changed untracked\n"
    status = laptop("status", "--json", *far, "@last")
    assert json.loads(status.stdout)["state"] == "SUCCEEDED"
    assert json.loads(status.stdout)["directory"] == str(run)
    assert login_node.connections() == 1
    assert not (login_node.laptop / "experiments").exists()


def test_run_is_watched_and_cancelled(login_node, laptop):
    """``wait`` ends with Ctrl-C on both sides and leaves the run alone, which ``cancel`` ends."""
    (login_node.laptop / "nap.py").write_text(NAP)
    env = {"GETIACTION_LAUNCH_CLUSTER": "far"}
    started = laptop("--parsable", "nap.py", **env)
    run = login_node.home / "work/experiments/nap/version_0"
    assert started.stdout == f"{run}\n", started.stderr
    assert "nap/version_0" in laptop("ls", "--state", "running", **env).stdout
    for words in (["wait", "@last"], ["logs", "-f", "nap/version_0"]):
        watching = subprocess.Popen(
            typed(*words),
            cwd=login_node.laptop,
            env=login_node.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        # Once it has said something, it watches.
        stream = watching.stdout if words[0] == "logs" else watching.stderr
        while b"begun" not in (line := stream.readline()) and b"progress" not in line:
            assert line
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=60)
        assert watching.returncode == 130
        if words[0] == "wait":
            assert b"The run continues. To end it: getiaction-launch cancel " in said
    assert login_node.commands() == []
    assert json.loads(laptop("status", "--json", "@last", **env).stdout)["state"] == "RUNNING"
    beside = laptop(
        "exec", "@last", "--", "sh", "-c", "echo $RANK $@", "sh", "--cluster", "x", **env
    )
    assert (beside.returncode, beside.stdout) == (0, "0 --cluster x\n"), beside.stderr
    for code in (9, 26, 200, 255):
        ended = laptop("exec", "@last", "--", "sh", "-c", f"exit {code}", **env)
        assert (ended.returncode, {*ended.stderr.splitlines()}) == (code, {f"welcome to {HOST}"})
    beside = subprocess.Popen(
        typed("exec", "@last", "--", "sh", "-c", "echo $$; exec sleep 600"),
        cwd=login_node.laptop,
        env=login_node.environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    program = psutil.Process(int(beside.stdout.readline()))
    beside.send_signal(signal.SIGINT)
    beside.communicate(timeout=60)
    assert beside.returncode == 130
    assert not program.is_running()
    staging = login_node.home / "staging"
    assert [path for path in staging.iterdir() if path.name.startswith(("arrival", "exit"))] == []
    cancelled = laptop("cancel", "@last", **env)
    assert cancelled.stdout == "run nap/version_0 CANCELLED\n"
    assert laptop("wait", "@last", **env).returncode == 11


def test_terminal_is_passed_on(login_node, laptop):
    """A question is asked there and answered here."""
    (login_node.laptop / "hello.py").write_text("print('hello')\n")
    assert laptop("--cluster", "far", "--wait", "hello.py").returncode == 0
    ours, theirs = pty.openpty()
    asking = subprocess.Popen(
        typed("rm", "--cluster", "far", "@last"),
        cwd=login_node.laptop,
        env=login_node.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen:
        assert select.select([ours], [], [], 60)[0], seen
        seen += os.read(ours, 4096)
    os.write(ours, b"y\n")
    assert asking.wait(60) == 0, seen
    os.close(ours)
    assert not (login_node.home / "work/experiments/hello/version_0").exists()


SPEC = """
data: {class_path: mine.Data}
model: {class_path: getiaction.policies.ACT}
trainer: {max_epochs: 1}
"""
MINE = """
from getiaction.demo import DotDataModule
class Data(DotDataModule):
    pass
"""


def test_spec_travels_with_its_modules(login_node, laptop):
    """Its class is found in the code that was sent, and values come from the laptop's file."""
    specs = login_node.laptop / "specs"
    specs.mkdir()
    (specs / "act.yaml").write_text(SPEC)
    (login_node.laptop / "mine.py").write_text(MINE)
    words = ("--cluster", "far", "--dry-run", "--json", "--trainer.max_epochs=3", "specs/act.yaml")
    done = laptop(*words)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)["plan"]
    assert plan["spec"]["data"]["class_path"] == "mine.Data"
    assert plan["origins"]["data.class_path"] == str(specs / "act.yaml")
    assert plan["origins"]["trainer.max_epochs"] == "command line"
    assert plan["code"]["home"] == "."
    assert not list(login_node.home.glob("work/*"))
