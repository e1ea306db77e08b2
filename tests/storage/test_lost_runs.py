"""Runs on remote storage that were removed, and logs there whose middle was dropped."""

import shutil
import time
from dataclasses import replace

import pytest
from staged import append, names, sync

from getiaction_launch.launch.logs import remote
from getiaction_launch.launch.logs.lines import read_lines
from getiaction_launch.mirror.staging import Staging
from getiaction_launch.node import guard as guard_module
from getiaction_launch.node.guard import Guard
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.lease import Lease, holding_lease, last_sign_of_life
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage import rotation
from getiaction_launch.storage.paths import file_system, remove
from getiaction_launch.system.stop import StopRequest

PLAN = Plan("act", "/", [], ["t.py"], Topology(1, 1, 0), "/")


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Look at once, and confirm it soon."""
    monkeypatch.setattr(guard_module, "CONFIRM_SECONDS", 0.01)


def test_removed_run_ends_with_its_staging_and_leaves_nothing(run):
    """What was uploaded after the removal is removed, and nothing more is uploaded."""
    JobRecord(job_id="7", submitted_at=1.0).write(run)
    guard = Guard(run)
    with StopRequest() as stop, Staging(run, PLAN, 0, 0, None, stop) as staging:
        assert guard.confirm_loss() is None
        remove(run.directory)
        append(run.local.log_directory(0) / "rank_0.log", "still here\n")
        sync(run)
        assert guard.confirm_loss() == "its directory was removed"
        staging.is_lost = staging.is_removed = True
        append(run.local.log_directory(0) / "rank_0.log", "never uploaded\n")
    guard.remove_leftovers()
    assert not run.local.directory.exists()
    fs, key = file_system(run.directory)
    assert fs.find(key) == []


def test_new_run_of_that_name_keeps_its_files(run):
    """Another command has claimed the version since."""
    Run.claim(str(run.directory.parent.parent), "other")  # in memory, the bucket is its files
    guard = Guard(run)
    remove(run.directory)
    assert guard.confirm_loss()
    again = Run.claim(str(run.directory.parent.parent), "act")
    assert again.directory == run.directory
    guard.remove_leftovers()
    assert names(again.launch_directory) == ["claim"]


def test_storage_that_fails_or_lost_its_bucket_says_nothing(run, monkeypatch):
    """Then uploads fail, and the run saves and stops for that reason."""
    guard = Guard(run)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError("expired")

    fs, _ = file_system(run.directory)
    with monkeypatch.context() as patch:
        patch.setattr(fs, "cat_file", fail)
        assert guard.confirm_loss() is None
    with monkeypatch.context() as patch:
        patch.setattr(fs, "ls", lambda *_, **__: _missing())
        remove(run.launch_directory / "plan.json")
        assert guard.confirm_loss() is None


def _missing():
    raise FileNotFoundError("no such bucket")


def test_lease_is_on_storage_until_its_job_ends(run):
    """And does not make a run anew that was removed."""
    job = JobRecord(job_id="7", submitted_at=1.0)
    job.write(run)
    with holding_lease(run):
        assert not last_sign_of_life(run, job).is_dead
        remove(run.directory)
    assert Lease.read(run) is None


def test_log_whose_middle_was_dropped_is_uploaded_once(run, monkeypatch):
    """Before and after that; what was dropped before its upload is a line that says so."""
    monkeypatch.setattr(rotation, "HEAD_BYTES", 1000)
    log = run.local.log_directory(0) / "rank_0.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    count = 0

    def write(lines: int) -> list[str]:
        nonlocal count
        count += lines
        written = [f"line {number:06d}" for number in range(count - lines, count)]
        append(log, "\n".join([*written, ""]))
        return written

    uploaded = write(1000)
    sync(run)
    rotation.shorten(log, 5000)
    uploaded += write(10)
    sync(run)
    assert b"".join(_segments(run)).decode().splitlines() == uploaded
    write(1000)
    rotation.shorten(log, 5000)
    last = write(10)
    sync(run)
    lines = b"".join(_segments(run)).decode().splitlines()
    assert lines[: len(uploaded)] == uploaded
    assert sum("bytes were dropped" in line for line in lines) == 1
    assert lines[-10:] == last
    shutil.rmtree(run.local.directory)
    path = run.log_directory(0) / "rank_0.log"
    for wanted in (1, 15, 10**6):
        assert [line for _, line in read_lines({"": path}, lambda: True, wanted)] == lines[-wanted:]


def test_last_lines_need_the_last_segments_alone(run, monkeypatch):
    """Of a long log, one list and one segment are asked for."""
    log = run.local.log_directory(0) / "rank_0.log"
    for number in range(4):
        append(log, f"{number} one\n{number} two\n")
        sync(run)
    fs, _ = file_system(run.log_directory(0))
    asked = []
    cat = fs.cat_file
    monkeypatch.setattr(fs, "cat_file", lambda path, **_: (asked.append(path), cat(path))[1])
    path = run.log_directory(0) / "rank_0.log"
    assert [line for _, line in read_lines({"": path}, lambda: True, 1)] == ["3 two"]
    assert [key.rpartition("/")[2] for key in asked] == ["rank_0.log.000003"]


def _segments(run: Run) -> list[bytes]:
    directory = run.log_directory(0)
    return [(directory / name).read_bytes() for name in names(directory)]


def test_segments_of_before_a_time_are_not_read(run, monkeypatch):
    """Each has a time on storage; all lines of a segment were written before it."""
    log = run.local.log_directory(0) / "rank_0.log"
    for number in range(3):
        append(log, f"{number} one\n{number} two\n")
        sync(run)
    path = run.log_directory(0) / "rank_0.log"

    def since(seconds, last=None):
        return [line for _, line in read_lines({"": path}, lambda: True, last, seconds)]

    assert len(since(time.time() - 3600)) == 6
    assert since(time.time() + 3600) == since(time.time() + 3600, 1) == []
    listed = remote.read_entries
    times = {"rank_0.log": 1.0, "rank_0.log.000001": 2.0, "rank_0.log.000002": 3.0}
    monkeypatch.setattr(
        remote,
        "read_entries",
        lambda folder: [replace(e, written_at=times.get(e.name)) for e in listed(folder)],
    )
    assert since(2.0) == ["1 one", "1 two", "2 one", "2 two"]
    assert since(2.0, 3) == ["1 two", "2 one", "2 two"]
    assert since(2.0, 9) == ["1 one", "1 two", "2 one", "2 two"]
