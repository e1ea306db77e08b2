"""From staging to storage and back: each byte once, commits last, nothing torn, nothing lost."""

import fcntl
import os
import re
import signal
import time
from pathlib import Path

import pytest
from fsspec import AbstractFileSystem
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from getiaction_launch.errors import CheckError, StorageError
from getiaction_launch.mirror.lanes import READ_SECONDS
from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.staging import prepare, salvage
from getiaction_launch.mirror.transfer import download
from getiaction_launch.run.checkpoint import all_committed, commit, newest, partial_path
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, file_system, open_path, read_json
from getiaction_launch.system.stop import StopRequest

LIMIT_SECONDS = 30


@pytest.fixture
def run(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on storage, and its staging directory on this machine."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / "staging"))
    run = Run.claim(root, "act")
    run.write("plan", {})
    run.make_log_directory(0)
    return run


def sync(run: Run) -> None:
    """Bring everything, as a node does at its end."""
    Mirror(run).close(LIMIT_SECONDS)


def uploader(run: Run) -> AbstractFileSystem:
    """What the mirror uploads with."""
    return file_system(open_path(run.directory, read_seconds=READ_SECONDS))[0]


def names(directory: Path) -> list[str]:
    """What lies there."""
    return sorted(path.name for path in children(directory))


def append(path: Path, text: str) -> None:
    """As a log is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def save(run: Run, step: int, content: str = "weights", attempt: int = 0) -> None:
    """Commit a checkpoint on this machine."""
    path = partial_path(run.local, 0, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    commit(
        run.local, attempt=attempt, fit=0, step=step, epoch=0, reason="period", saved_at=time.time()
    )


def elsewhere(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str = "b") -> None:
    """Go on with the run on another machine."""
    monkeypatch.setenv("GETIACTION_LAUNCH_STAGING_DIR", str(tmp_path / name))
    run.make_log_directory(0)


def test_log_goes_up_once(run, monkeypatch):
    """Each look adds a segment of what is new; together they are the log, and all that was sent."""
    log = run.local.log_directory(0) / "rank_0.log"
    fs = uploader(run)
    sent = []
    put = fs.pipe_file

    def pipe_file(path: str, value: bytes, **kwargs: object) -> object:
        if "rank_0" in path:
            sent.append((path, value))
        return put(path, value, **kwargs)

    monkeypatch.setattr(fs, "pipe_file", pipe_file)
    for number in range(3):
        append(log, f"line {number}\n" * 100)
        sync(run)
        sync(run)
    stored = run.log_directory(0)
    assert names(stored) == ["rank_0.log", "rank_0.log.000001", "rank_0.log.000002"]
    assert b"".join((stored / name).read_bytes() for name in names(stored)) == log.read_bytes()
    assert sum(len(value) for _, value in sent) == log.stat().st_size


def test_segment_is_the_same_after_a_kill(run, monkeypatch):
    """Who goes on after an upload that nobody saw the end of sends the same bytes again."""
    log = run.local.log_directory(0) / "rank_0.log"
    append(log, "one\n")
    fs = uploader(run)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fs, "pipe_file", die)
        with pytest.raises(KeyboardInterrupt):
            sync(run)
    append(log, "two\n")
    sync(run)
    stored = run.log_directory(0)
    assert [(stored / name).read_text() for name in names(stored)] == ["one\n", "two\n"]


def test_tensorboard_reads_segments_as_one_curve(run, tmp_path):
    """Events are cut at whole records: TensorBoard shows every step, while they come and later."""
    writer = SummaryWriter(str(run.local.directory))
    (events,) = run.local.directory.glob("*tfevents*")
    copy = tmp_path / "copy"
    copy.mkdir()
    board = EventAccumulator(str(copy))
    for step in range(60):
        writer.add_scalar("loss", step, step)
        writer.flush()
        if step % 20 == 19:
            if step == 59:
                append(events, "torn")  # as a kill leaves it
            sync(run)
            for path in children(run.directory):
                if "tfevents" in path.name:
                    (copy / path.name).write_bytes(path.read_bytes())
            board.Reload()
            assert [event.step for event in board.Scalars("loss")] == list(range(step + 1))
    assert len(list(copy.iterdir())) == 3
    whole = b"".join(path.read_bytes() for path in sorted(copy.iterdir()))
    assert whole == events.read_bytes().removesuffix(b"torn")


def test_other_files_are_replaced_and_removed(run):
    """What changes is replaced, what is removed goes, what is unfinished or hidden stays here."""
    local = run.local.directory
    (local / "hparams.yaml").write_text("a: 1")
    (local / "checkpoints").mkdir()
    (local / "checkpoints/epoch=0.ckpt").write_text("first")
    (local / "checkpoints/.epoch=1.ckpt.tmp").write_text("half")
    (local / "checkpoints/epoch=2.partial").write_text("half")
    sync(run)
    assert names(run.directory / "checkpoints") == ["epoch=0.ckpt"]
    (local / "hparams.yaml").write_text("a: 2")
    (local / "checkpoints/epoch=0.ckpt").unlink()
    (local / "checkpoints/epoch=1.ckpt").write_text("second")
    sync(run)
    assert (run.directory / "hparams.yaml").read_text() == "a: 2"
    assert names(run.directory / "checkpoints") == ["epoch=1.ckpt"]


def test_download_that_is_cut_off_is_tried_again(run, tmp_path, monkeypatch):
    """A checkpoint does not fail to arrive for one connection that broke."""
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


def test_checkpoint_counts_on_storage_once_it_is_there(run, monkeypatch):
    """The marker comes last: an upload that fails leaves the checkpoint before it in charge."""
    save(run, 10)
    sync(run)
    save(run, 20)
    fs = uploader(run)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "put_file", refuse)
        with pytest.raises(StorageError, match=r"could not upload all files to .*: .*cut off"):
            Mirror(run).close(0)
    assert newest(run).step == 10
    sync(run)
    assert newest(run).step == 20


def test_upload_that_was_killed_leaves_nothing_for_ever(run):
    """What came without its marker goes with the next checkpoint, and no other does."""
    for step in (10, 20):
        save(run, step)
        sync(run)
    lost = run.launch_directory / "checkpoints/fit_0_step_25.ckpt"
    fs, key = file_system(lost)
    fs.pipe_file(key, b"wei")
    save(run, 30)
    sync(run)
    found = names(run.launch_directory / "checkpoints")
    assert [name for name in found if name.endswith(".ckpt")] == [
        "fit_0_step_20.ckpt",
        "fit_0_step_30.ckpt",
    ]


def test_status_tells_that_no_checkpoint_can_be_uploaded(run, monkeypatch, until):
    """Logs still come, and with them the reason; it goes when a checkpoint has come."""
    monkeypatch.setattr("getiaction_launch.mirror.mirror.POLL_SECONDS", 0.01)
    monkeypatch.setattr("getiaction_launch.mirror.lanes.RECORD_SECONDS", 0.0)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("full bucket")

    run.local.write("progress", {"phase": "training", "step": 12}, durable=False)
    save(run, 10)
    mirror = Mirror(run)
    with monkeypatch.context() as patch:
        patch.setattr("getiaction_launch.mirror.lanes.upload", refuse)
        mirror.start()
        until(lambda: "full bucket" in (run.read("progress") or {}).get("upload_error", ""))
    until(lambda: newest(run))
    until(lambda: "upload_error" not in run.read("progress"))
    mirror.close(LIMIT_SECONDS)


def test_truncated_checkpoint_does_not_count(run):
    """An object that is not whole is no checkpoint, whatever its marker says."""
    save(run, 10)
    sync(run)
    save(run, 20)
    sync(run)
    stored = newest(run).path
    fs, key = file_system(stored)
    fs.pipe_file(key, b"w")
    assert newest(run).step == 10


def test_last_two_checkpoints_stay_on_storage(run):
    """As on a disk; also where the older ones were saved on another machine."""
    for step in (10, 20, 30):
        save(run, step)
        sync(run)
    assert [checkpoint.step for checkpoint in all_committed(run)] == [20, 30]
    assert len(names(run.launch_directory / "checkpoints")) == 4


def test_run_goes_on_on_another_machine(run, tmp_path, monkeypatch):
    """There, everybody finds the checkpoint, and rank 0 what its callbacks have saved."""
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
    (run.local.directory / "checkpoints/best.ckpt").unlink()
    sync(run)
    assert names(run.directory / "checkpoints") == []


def test_clocks_do_not_say_which_checkpoint_is_newest(run, tmp_path, monkeypatch):
    """A machine an hour ahead, an older one written again: that of the last attempt goes on."""
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


def test_uploads_that_were_killed_are_abandoned(s3, tmp_path, monkeypatch):
    """The next attempt drops the parts that a killed one has left, and nobody else's."""
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
    told = fs.call_s3("list_multipart_uploads", Bucket=name)
    assert [upload["Key"] for upload in told["Uploads"]] == keys[:1]


def test_damaged_checkpoint_is_never_resumed_from(run, tmp_path, monkeypatch):
    """Of the right size but other bytes: refused by name, and the one before it is the newest."""
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


def test_stale_files_of_a_machine_are_forgotten(run, tmp_path, monkeypatch):
    """A machine that the run comes back to takes what storage has, and uploads nothing older."""
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


def test_what_a_killed_node_has_left_is_brought(run):
    """A checkpoint that was committed here, but not yet there, is what the next attempt takes."""
    prepare(run, 0, 0, None)
    save(run, 10)
    assert newest(run) is None
    salvage(run, 1)
    assert newest(run).step == 10


def test_progress_and_checkpoints_do_not_wait_for_the_period(run, until):
    """Both are there in moments, however long the period."""
    mirror = Mirror(run, period_seconds=3600)
    mirror.start()
    until(lambda: read_json(run.local.directory / ".files.json") is not None)  # the first sync
    run.local.write("progress", {"step": 7})
    save(run, 10)
    until(lambda: (run.read("progress") or {}).get("step") == 7)
    until(lambda: newest(run))
    mirror.close(LIMIT_SECONDS)


def test_training_is_stopped_when_storage_takes_nothing_for_long(run, monkeypatch, capfd, until):
    """Told at once, tried again, and after the limit the workers are asked to stop."""
    save(run, 10)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("quota exceeded")

    with StopRequest() as stop:
        mirror = Mirror(run, period_seconds=0, limit_seconds=0, stop=stop)
        fs, _ = file_system(
            mirror._lanes[1].work.run.directory
        )  # a thread's own, where it is of one
        with monkeypatch.context() as patch:
            patch.setattr(fs, "put_file", refuse)
            mirror.start()
            until(lambda: stop.signal)
        assert stop.signal is signal.SIGTERM
    mirror.close(LIMIT_SECONDS)
    said = capfd.readouterr().err
    assert re.search(r"checkpoints could not be uploaded: .*fit_0_step_10.*: quota exceeded", said)
    assert newest(run).step == 10


def test_nodes_of_one_machine_share_the_work(run):
    """While one uploads the other waits, and then finds everything done."""
    append(run.local.log_directory(0) / "rank_0.log", "said\n")
    with (run.local.directory / ".files.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="an upload has not ended"):
            Mirror(run).close(0)
    sync(run)
    sync(run)
    assert names(run.log_directory(0)) == ["rank_0.log"]
