"""How a run ended is known after an outage, and what it has left behind is swept."""

import os
import re
import time

import pytest
from staged import append, elsewhere, save, sync

from getiaction_launch.errors import StorageError
from getiaction_launch.launch.status import read_status
from getiaction_launch.launch.why.diagnosis import diagnose
from getiaction_launch.launch.why.signs import Category
from getiaction_launch.mirror import sweep as sweeping
from getiaction_launch.mirror.staging import prepare
from getiaction_launch.mirror.sweep import sweep
from getiaction_launch.node import outage
from getiaction_launch.node.outage import outlast
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.attempt import Attempt, Ending
from getiaction_launch.run.records import read_attempts
from getiaction_launch.run.restart import judge, may_begin
from getiaction_launch.run.run import Run, staging_root
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import file_system


@pytest.fixture
def root(bucket: str) -> str:
    """A root on S3."""
    return f"{bucket}/experiments"


@pytest.fixture
def attempt(run: Run, root: str) -> Attempt:
    """The first attempt of a run, on this machine."""
    run.write("plan", Plan("act", root, [], ["train.py"], Topology(1, 1, 0), "").to_json())
    attempt = Attempt.begin(run, "key", "127.0.0.1", 1)
    prepare(run, 0, 0, None)
    return attempt


@pytest.mark.parametrize("is_short", [True, False], ids=["short", "long"])
def test_the_reason_survives_the_outage_that_was_the_reason(run, attempt, monkeypatch, is_short):
    """A short outage is outlasted; after a long one this machine says it, and the next attempt."""
    fs, _ = file_system(run.directory)
    read, failures = fs.cat_file, iter(range(2 if is_short else 10**6))

    def cat_file(path: str, **options: int) -> bytes:
        if "attempt_0" in path and next(failures, None) is not None:
            raise PermissionError("The provided token has expired")
        return read(path, **options)

    monkeypatch.setattr(outage, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(outage, "STOPPED_SECONDS", 0.1)

    def conclude() -> Ending:
        ending = judge(run, 0, [1])
        attempt.end(ending)
        return ending

    with monkeypatch.context() as patch:
        patch.setattr(fs, "cat_file", cat_file)
        attempt.write_node_error(0, "StorageError", "could not upload all files: token expired")
        ending = outlast(attempt, conclude, lambda: not is_short, lambda ending: ending)
    reason = "token expired" if is_short else "storage failed: .*token has expired"
    assert ending.state is JobState.FAILED
    status = read_status(run)
    assert (status.state, status.cause) == (JobState.FAILED, Cause.CRASH)
    assert re.search(reason, status.reason)
    assert (read_attempts(run)[0].ended_at is not None) == is_short
    assert not may_begin(run)
    assert re.search(reason, read_attempts(run)[0].reason)
    assert diagnose(run).category is Category.STORAGE


def old(run: Run) -> None:
    """Make the staging directory look as if nothing had changed in it for two hours."""
    then = time.time() - 7200
    place = run.local.directory.parents[1]
    for path in (place, *place.rglob("*")):
        os.utime(path, (then, then), follow_symlinks=False)


def swept(run: Run) -> bool:
    """Sweep, as another run on this machine does, and return whether the directory is gone."""
    sweep(staging_root(), Run(staging_root() / "other/act/version_0"))
    return not run.local.directory.exists()


def test_staging_of_a_run_that_is_over_is_swept(run, attempt, capfd):
    """Once everything is on storage, and nobody uses the directory or has just used it."""
    save(run, 10)
    append(run.local.log_directory(0) / "rank_0.log", "said\n")
    sync(run)
    old(run)
    assert not swept(run)  # it may be running
    attempt.end(Ending(JobState.CANCELLED, Cause.CANCEL, "cancelled by you"))
    assert swept(run)
    assert "which an earlier run has left" in capfd.readouterr().err
    run.make_log_directory(0)
    assert not swept(run)  # somebody has just begun something
    old(run)
    assert swept(run)  # as a resume from a laptop leaves it


def test_staging_with_unsaved_work_is_kept_for_a_month(run, attempt, capfd, monkeypatch):
    """And named; a checkpoint that another machine has passed does not count."""
    save(run, 10)
    (run.local.directory / "notes.txt").write_text("mine")
    attempt.end(Ending(JobState.FAILED, Cause.CRASH, "bad"))
    old(run)
    assert not swept(run)
    assert "notes.txt, launch/checkpoints/fit_0_step_10.ckpt" in capfd.readouterr().err
    monkeypatch.setattr(sweeping, "UNSAVED_SECONDS", 3600.0)
    assert swept(run)


def test_staging_of_a_run_that_went_elsewhere_is_swept(run, attempt, tmp_path, monkeypatch):
    """Its run trains on another machine, so what is here is outdated, once it is on storage."""
    first = os.environ["GETIACTION_LAUNCH_STAGING_DIR"]
    save(run, 10)
    sync(run)
    attempt.end(Ending(JobState.CANCELLED, Cause.CANCEL, "cancelled by you", goes_on=True))
    Attempt.begin(run, "other", "127.0.0.1", 1)
    elsewhere(run, tmp_path, monkeypatch)
    prepare(run, 1, 0, None)
    save(run, 20, attempt=1)
    sync(run)
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", first)
    old(run)
    assert swept(run)


def test_staging_stays_while_storage_does_not_answer(run, attempt, monkeypatch):
    """What cannot be asked about stays."""
    sync(run)
    attempt.end(Ending(JobState.CANCELLED, Cause.CANCEL, "cancelled by you"))
    old(run)

    def fail(_: Run) -> None:
        raise StorageError("no answer")

    monkeypatch.setattr(sweeping, "read_end", fail)
    assert not swept(run)
