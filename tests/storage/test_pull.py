"""Downloads of runs and checkpoints: they look as if they had been written to a disk."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from getiaction_launch.errors import CheckError, StorageError, UsageError
from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.pull import NEWEST, pull_checkpoint, pull_run
from getiaction_launch.run.checkpoint import commit, newest, partial_path
from getiaction_launch.run.reading.summary import write_summary
from getiaction_launch.run.records import SUMMARY, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import file_system, modified_at, remove, use_options


@pytest.fixture
def run(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on S3 with a log in segments, a user's checkpoint and a committed one."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    run = Run.claim(bucket, "act")
    run.write("plan", {})
    run.write("job", {"job_id": "1"})
    log = run.make_log_directory(0) / "rank_0.log"
    partial = partial_path(run.local, 0, 10)
    partial.parent.mkdir(parents=True)
    partial.write_text("weights")
    commit(run.local, attempt=0, fit=0, step=10, epoch=0, reason="period", saved_at=time.time())
    (run.local.directory / "checkpoints").mkdir()
    (run.local.directory / "checkpoints/epoch=0-step=10.ckpt").write_text("best")
    for number in range(3):
        with log.open("a") as file:
            file.write(f"line {number}\n")
        Mirror(run).close(30)
    return run


def test_pulled_run_is_as_on_a_disk(run, tmp_path):
    """Segments are joined, and the copy has no record that would make it pass for the run."""
    calls = []
    pull_run(run, tmp_path / "copy", lambda done, total: calls.append((done, total)))
    copy = {
        str(p.relative_to(tmp_path / "copy")) for p in tmp_path.rglob("copy/**/*") if p.is_file()
    }
    assert copy == {
        "launch/plan.json",
        "launch/logs/attempt_0/rank_0.log",
        "launch/checkpoints/fit_0_step_10.ckpt",
        "launch/checkpoints/fit_0_step_10.json",
        "checkpoints/epoch=0-step=10.ckpt",
    }
    log = tmp_path / "copy/launch/logs/attempt_0/rank_0.log"
    assert log.read_text() == "line 0\nline 1\nline 2\n"
    assert calls[-1][0] == calls[-1][1] > 0
    with pytest.raises(CheckError, match="already exists"):
        pull_run(run, tmp_path / "copy", lambda *_: None)


def test_the_copy_does_not_repeat_the_record_of_the_job(run, tmp_path):
    """It may have settings of the cluster that are nobody else's business."""
    Progress(step=10).write(run)
    write_summary(run, 0)
    assert SUMMARY in run.read(Progress.NAME)
    pull_run(run, tmp_path / "copy", lambda *_: None)
    copy = Run(tmp_path / "copy")
    assert SUMMARY not in copy.read(Progress.NAME)
    assert Progress.read(copy).step == 10


def test_checkpoints_are_pulled_by_name(run, tmp_path):
    """A checkpoint of the user is found; a wrong name lists the available ones."""
    best = pull_checkpoint(run, "epoch=0-step=10.ckpt", tmp_path / "a")
    assert best.read_text() == "best"
    with pytest.raises(UsageError, match=r"epoch=0\.ckpt.*\n.*epoch=0-step=10\.ckpt.*newest"):
        pull_checkpoint(run, "epoch=0.ckpt", tmp_path / "a")


def test_checkpoint_of_a_local_run_is_refused_with_its_directory(tmp_path):
    """There is nothing to download; the error says where the run is."""
    run = Run.claim(str(tmp_path), "act")
    with pytest.raises(CheckError, match=f"a local directory already: {run.directory}"):
        pull_checkpoint(run, NEWEST, tmp_path / "a")


def write_later(path: Path, earlier: Path) -> None:
    """Make a file younger than another by the clock of storage, which counts seconds."""
    fs, key = file_system(path)
    content = fs.cat_file(key)
    while modified_at(path) <= modified_at(earlier):
        fs.pipe_file(key, content)


def test_newest_checkpoint_is_the_last_uploaded_one(run, tmp_path):
    """It is the committed one or a user's; a short run has only the latter."""
    users = run.directory / "checkpoints/epoch=0-step=10.ckpt"
    committed = newest(run).path
    marker = committed.with_suffix(".json")
    write_later(marker, users)
    assert pull_checkpoint(run, NEWEST, tmp_path / "a").read_text() == "weights"
    write_later(users, marker)
    assert pull_checkpoint(run, NEWEST, tmp_path / "b").read_text() == "best"
    remove(marker)
    remove(committed)
    assert pull_checkpoint(run, NEWEST, tmp_path / "c").read_text() == "best"
    remove(users)
    with pytest.raises(UsageError, match="has saved no checkpoint yet"):
        pull_checkpoint(run, NEWEST, tmp_path / "d")


def test_damaged_checkpoint_is_not_left_behind(run, tmp_path):
    """If the contents are not what was saved, there is no file of that name."""
    remove(run.directory / "checkpoints/epoch=0-step=10.ckpt")
    fs, key = file_system(newest(run).path)
    fs.pipe_file(key, b"WEIGHTS")
    with pytest.raises(StorageError, match="is damaged"):
        pull_checkpoint(run, NEWEST, tmp_path / "a")
    assert not (tmp_path / "a/fit_0_step_10.ckpt").exists()


def test_pull_is_a_verb(run, getiaction_launch, tmp_path):
    """A run is downloaded to where a laptop would have trained it, and is found there."""
    result = getiaction_launch("pull", str(run.directory))
    assert (result.returncode, result.stdout) == (0, "experiments/act/version_0\n"), result.stderr
    assert (tmp_path / "experiments/act/version_0/launch/plan.json").exists()
    again = getiaction_launch("pull", "act/version_0")
    assert (again.returncode, "is a local directory already" in again.stderr) == (3, True)
    root = str(run.directory.parent.parent)
    name = "epoch=0-step=10.ckpt"
    one = getiaction_launch("pull", "--checkpoint", name, "--root", root, "act/version_0")
    assert (one.returncode, one.stdout) == (0, f"{name}\n"), one.stderr


def test_storage_options_of_a_cluster_reach_every_process(s3, bucket, monkeypatch):
    """They are set in fsspec's own environment variable, which processes inherit."""
    for name in s3.env:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FSSPEC_S3", "")
    monkeypatch.delenv("FSSPEC_S3")
    from fsspec.config import conf

    monkeypatch.setitem(conf, "s3", {})
    key, secret = s3.env["AWS_ACCESS_KEY_ID"], s3.env["AWS_SECRET_ACCESS_KEY"]
    options = {"endpoint_url": s3.endpoint, "key": key, "secret": secret}
    use_options(bucket, options)
    run = Run.claim(bucket, "act")
    run.write("plan", {"from": "here"})
    code = (
        "import sys\nfrom getiaction_launch.run.run import Run\n"
        "print(Run.at(sys.argv[1]).read('plan'))"
    )
    command = [sys.executable, "-c", code, str(run.directory)]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "'from': 'here'" in said.stdout
