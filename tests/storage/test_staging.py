"""Attempts on several machines: what they download first, and what they leave behind."""

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest
from staged import append, discard, elsewhere, names, save, sync

from getiaction_launch.errors import CheckError
from getiaction_launch.mirror.staging import Staging, prepare, salvage
from getiaction_launch.mirror.transfer import download
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.checkpoint import all_committed, newest
from getiaction_launch.run.finished import (
    PLACE,
    commit_finished,
    finished_fits,
    partial_of,
    path_of,
)
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import file_system
from getiaction_launch.system.stop import StopRequest


def test_run_resumes_on_another_machine(run, tmp_path, monkeypatch):
    """All nodes get the checkpoint, and rank 0 the files that its callbacks have saved."""
    save(run, 10)
    local = run.local.directory
    (local / "checkpoints").mkdir()
    (local / "checkpoints/best.ckpt").write_text("best")
    append(local / "launch/logs/attempt_0/rank_0.log", "said\n")
    sync(run)
    for rank, machine in enumerate(("b", "c")):
        elsewhere(run, tmp_path, monkeypatch, machine)
        prepare(run, 1, rank, str(newest(run).path))
        assert run.local.directory != local
        assert newest(run.local).step == 10
        assert (run.local.directory / "checkpoints/best.ckpt").exists() == (rank == 0)
        assert names(run.local.log_directory(0)) == []
    elsewhere(run, tmp_path, monkeypatch, "b")
    discard(run, "checkpoints/best.ckpt")
    sync(run)
    assert names(run.directory / "checkpoints") == []


def test_finished_fits_are_on_every_machine(run, tmp_path, monkeypatch):
    """A program that resumes in its second fit needs the end state of the first, on all ranks."""
    path = partial_of(run.local, 0)
    path.parent.mkdir(parents=True)
    path.write_text("end")
    words = {"attempt": 0, "program": "p", "step": 4, "epoch": 1, "saved_at": 1.0}
    commit_finished(run.local, 0, **words, is_kept=True)
    path.write_text("not committed yet")
    sync(run)
    assert names(run.directory / PLACE) == ["fit_0.ckpt", "fit_0.json"]
    for rank, machine in enumerate(("b", "c")):
        elsewhere(run, tmp_path, monkeypatch, machine)
        prepare(run, 1, rank, None)
        assert finished_fits(run.local)[0].is_kept
        assert path_of(run.local, 0).read_text() == "end"
    sync(run)
    assert finished_fits(run)[0].step == 4


def test_clocks_do_not_say_which_checkpoint_is_newest(run, tmp_path, monkeypatch):
    """The last attempt's is, even if a clock was wrong or an older one was written again."""
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda now=time.time: now() + 3600)
        for step in (10, 20):
            save(run, step)
            sync(run)
    elsewhere(run, tmp_path, monkeypatch)
    prepare(run, 1, 0, str(newest(run).path))
    save(run, 30, attempt=1)
    sync(run)
    fs, key = file_system(all_committed(run)[0].path)
    for written_again in (key, key.replace(".ckpt", ".json")):
        fs.pipe_file(written_again, fs.cat_file(written_again))
    assert [checkpoint.step for checkpoint in all_committed(run)] == [20, 30]
    assert newest(run.local).step == 30
    elsewhere(run, tmp_path, monkeypatch, "c")
    prepare(run, 2, 0, str(newest(run).path))
    assert newest(run.local).step == 30


def test_uploads_that_were_killed_are_aborted(s3, tmp_path, monkeypatch):
    """The next attempt removes the parts that a killed upload has left, and no others."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    bucket = s3.make_bucket()
    other, run = (Run.claim(f"{bucket}/experiments", "act") for _ in range(2))
    keys = []
    for each in (other, run):
        fs, path = file_system(each.directory / "launch/checkpoints/fit_0_step_9.ckpt")
        name, _, key = path.partition("/")
        keys.append(key)
        fs.call_s3("create_multipart_upload", Bucket=name, Key=key)
    run.make_log_directory(0)
    prepare(run, 1, 0, None)
    answer = fs.call_s3("list_multipart_uploads", Bucket=name)
    assert [upload["Key"] for upload in answer["Uploads"]] == keys[:1]


def test_damaged_checkpoint_is_never_resumed_from(run, tmp_path, monkeypatch):
    """A checkpoint with other contents is refused, and the one before it is the newest."""
    for step in (10, 20):
        save(run, step)
        sync(run)
    fs, key = file_system(newest(run).path)
    fs.pipe_file(key, b"WEIGHTS")
    elsewhere(run, tmp_path, monkeypatch)
    with pytest.raises(CheckError, match=r"fit_0_step_20\.ckpt is damaged"):
        prepare(run, 1, 0, str(newest(run).path))
    assert newest(run.local) is None
    assert newest(run).step == 10


def test_outdated_files_of_a_machine_are_removed(run, tmp_path, monkeypatch):
    """A machine that the run returns to downloads newer files, and uploads no older ones."""
    first = os.environ["GETIACTION_LAUNCH_STAGING_DIR"]
    prepare(run, 0, 0, None)
    best = "checkpoints/best.ckpt"
    (run.local.directory / "checkpoints").mkdir()
    (run.local.directory / best).write_text("old")
    sync(run)
    elsewhere(run, tmp_path, monkeypatch)
    prepare(run, 1, 0, None)
    (run.local.directory / best).write_text("new")
    sync(run)
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", first)
    prepare(run, 2, 0, None)
    assert (run.local.directory / best).read_text() == "new"
    sync(run)
    assert (run.directory / best).read_text() == "new"


def test_log_that_a_node_has_begun_is_not_outdated(run, capfd):
    """What the node has said before its files are prepared is uploaded with the rest."""
    log = run.local.make_log_directory(0) / "node_0.log"
    log.write_text("eth1 was not taken\n")
    prepare(run, 0, 0, None)
    assert "outdated" not in capfd.readouterr().err
    sync(run)
    assert log.read_text() == "eth1 was not taken\n"


def test_checkpoint_of_a_killed_node_is_uploaded(run):
    """The next attempt resumes from a checkpoint that was committed here, but not uploaded."""
    prepare(run, 0, 0, None)
    save(run, 10)
    assert newest(run) is None
    salvage(run, 1)
    assert newest(run).step == 10


def test_a_node_that_starts_while_another_one_finishes_keeps_its_directory(run, monkeypatch):
    """Of two nodes on a machine, the first may have finished before the second has begun."""
    plan = Plan("act", "", [], ["train.py"], Topology(2, 1, 0), "")
    place = run.local.directory.parents[1]
    flock, places = fcntl.flock, iter([place.parent, place])

    def lock(descriptor: int, operation: int) -> None:
        if next(places, None) == place:
            shutil.rmtree(place)  # as the other node does
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", lock)
    with Staging(run, plan, 0, 1, None, StopRequest()) as staging:
        assert run.local.log_directory(0).is_dir()
        staging.is_finished = True
    assert not place.exists()


def test_nodes_of_one_machine_are_prepared_in_any_order(run, tmp_path, monkeypatch):
    """The node of rank 0 removes nothing of a node whose workers train already."""
    elsewhere(run, tmp_path, monkeypatch)
    prepare(run, 1, 1, None)
    plan = (run.local.launch_directory / "plan.json").stat()
    append(run.local.directory / "of_rank_1.txt", "written by a worker")
    prepare(run, 1, 0, None)
    assert (run.local.directory / "of_rank_1.txt").exists()
    assert (run.local.launch_directory / "plan.json").stat() == plan
    salvage(run, 2)
    assert "of_rank_1.txt" in names(run.directory)


def test_interrupted_download_is_retried(run, tmp_path, monkeypatch):
    """One broken connection does not make the download fail."""
    save(run, 10)
    sync(run)
    stored = newest(run).path
    fs, _ = file_system(stored)
    get, failures = fs.get_file, [OSError("cut off")]

    def get_file(source: str, target: str) -> None:
        if failures:
            Path(target).write_text("wei")
            raise failures.pop()
        get(source, target)

    monkeypatch.setattr(fs, "get_file", get_file)
    download(stored, tmp_path / "weights")
    assert (tmp_path / "weights").read_text() == "weights"
    assert not failures


@pytest.mark.parametrize("name", [".files.json", ".checkpoints.json", ".head.json"])
def test_damaged_record_of_a_staging_directory_counts_as_missing(run, name):
    """Nothing is lost: files are uploaded or downloaded again."""
    prepare(run, 0, 0, None)
    (run.local.directory / "hparams.yaml").write_text("a: 1")
    save(run, 10)
    sync(run)
    damaged = '{"files": {"hparams.yaml": {"size": "large"}}, "attempt": "first"}'
    (run.local.directory / name).write_text(damaged)
    prepare(run, 1, 0, str(newest(run).path))
    (run.local.directory / "hparams.yaml").write_text("a: 2")
    sync(run)
    assert newest(run.local).step == newest(run).step == 10
    assert (run.directory / "hparams.yaml").read_text() == "a: 2"
