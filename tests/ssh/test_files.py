"""Files of a run come to the laptop: all of them, one checkpoint, or the curves while it trains."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from clusters.ssh import LoginNode, typed
from tensorboard.summary.writer.event_file_writer import EventFileWriter

FAR = ("--cluster", "far")


@pytest.fixture
def run(login_node: LoginNode) -> Path:
    """A run on the login node, as its user sees it."""
    directory = login_node.home / "work/experiments/act/version_0"
    for name, text in {
        "launch/plan.json": "{}",
        "launch/job.json": "{}",
        "checkpoints/epoch=1-step=2.ckpt": "weights",
        "hparams.yaml": "x: 1\n",
        "a b/$(id)\n.txt": "odd",
        "sharded/part": "1",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    (directory / "leads_out").symlink_to("/etc/passwd")
    os.mkfifo(directory / "blocks")
    return directory


def files_below(directory: Path) -> dict[str, str]:
    """Return what the files of a directory hold."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_run_is_pulled(login_node, laptop, run):
    """Ordinary files come, with their times; not the record of the job, and nothing twice."""
    os.utime(run / "hparams.yaml", (1e9, 1e9))
    done = laptop("pull", *FAR, "@last")
    assert (done.returncode, done.stdout) == (0, "experiments/act/version_0\n"), done.stderr
    target = login_node.laptop / "experiments/act/version_0"
    there = files_below(run)
    del there["launch/job.json"], there["leads_out"]
    # A name with a line break is that of no file of a run.
    assert "not downloaded" in done.stderr
    assert files_below(target) == {k: v for k, v in there.items() if "\n" not in k}
    assert (target / "hparams.yaml").stat().st_mtime == 1e9
    again = laptop("pull", *FAR, "act/version_0")
    assert again.returncode == 3
    assert "error: experiments/act/version_0 already exists." in again.stderr
    assert [path.name for path in target.parent.iterdir()] == ["version_0"]


def test_checkpoint_is_pulled(login_node, laptop, run):
    """One that is a file or a directory; a wrong name is what the other side says it is."""
    (run / "sharded").rename(run / "checkpoints/last.ckpt")
    for name in ("best", "last"):
        done = laptop("pull", *FAR, "--checkpoint", name, "act/version_0", "out")
        assert done.returncode == 0, done.stderr
    out = login_node.laptop / "out"
    assert files_below(out) == {"epoch=1-step=2.ckpt": "weights", "last.ckpt/part": "1"}
    wrong = laptop("pull", *FAR, "--checkpoint", "lost", "act/version_0")
    assert wrong.returncode == 2
    assert "--checkpoint lost: run act/version_0 has no checkpoint of that name." in wrong.stderr
    nothing = laptop("pull", *FAR, "act/version_9")
    assert nothing.returncode == 2
    assert "no such run" in nothing.stderr


def test_tensorboard_shows_curves_of_there(login_node, laptop, run):
    """It listens on the laptop only, and ends with Ctrl-C."""
    del laptop  # it ends what is left
    writer = EventFileWriter(str(run))
    writer.close()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        typed("tensorboard", *FAR, "--port", str(port), "@last"),
        cwd=login_node.laptop,
        env=login_node.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        for line in process.stderr:
            if b"http://localhost:" in line:
                break
        deadline, said = time.monotonic() + 60, b""
        while b'"."' not in said and time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs", timeout=60) as page:
                said = page.read()
            time.sleep(0.2)
        assert b'"."' in said
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
