"""Uploads from a staging directory: each byte once, commits last, nothing torn or lost."""

import fcntl
import re
import signal

import pytest
from fsspec import AbstractFileSystem
from staged import LIMIT_SECONDS, append, discard, names, refuse_uploads, save, sync
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.staging import prepare
from getiaction_launch.mirror.uploading.lanes import READ_SECONDS
from getiaction_launch.run.checkpoint import all_committed, newest
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, file_system, open_path, read_json
from getiaction_launch.system.stop import StopRequest


def uploader(run: Run) -> AbstractFileSystem:
    """The file system that the mirror uploads with."""
    return file_system(open_path(run.directory, read_seconds=READ_SECONDS))[0]


def test_log_is_uploaded_once(run, monkeypatch):
    """Each sync uploads a segment with what is new; joined, the segments are the log."""
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
    """After a crash during an upload, the next mirror uploads the same bytes again."""
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
    """Segments end with complete records, so TensorBoard shows every step at all times."""
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
                append(events, "torn")  # as a killed worker leaves it
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
    """Changed files are replaced, removed ones removed; only the launcher's own are left out."""
    prepare(run, 0, 0, None)
    local = run.local.directory
    (local / "hparams.yaml").write_text("a: 1")
    (local / "checkpoints").mkdir()
    (local / "checkpoints/epoch=0.ckpt").write_text("first")
    (local / "checkpoints/.epoch=1.ckpt.partial").write_text("half")
    (local / "launch/.progress.json.77").write_text("half")
    (local / ".hydra").mkdir()
    (local / ".hydra/.config").write_text("b: 1")
    sync(run)
    assert names(run.directory / "checkpoints") == ["epoch=0.ckpt"]
    assert names(run.directory) == [".hydra", "checkpoints", "hparams.yaml", "launch"]
    assert (run.directory / ".hydra/.config").read_text() == "b: 1"
    (local / "hparams.yaml").write_text("a: 2")
    discard(run, "checkpoints/epoch=0.ckpt")
    (local / "checkpoints/epoch=1.ckpt").write_text("second")
    sync(run)
    assert (run.directory / "hparams.yaml").read_text() == "a: 2"
    assert names(run.directory / "checkpoints") == ["epoch=1.ckpt"]


def test_checkpoint_is_committed_on_storage_after_its_upload(run, monkeypatch):
    """The marker is uploaded last: if an upload fails, the previous checkpoint is the newest."""
    save(run, 10)
    sync(run)
    save(run, 20)
    fs = uploader(run)

    with monkeypatch.context() as patch:
        refuse_uploads(patch, fs, OSError("cut off"))
        with pytest.raises(StorageError, match=r"could not upload all files to .*: .*cut off"):
            Mirror(run).close(0)
    assert newest(run).step == 10
    sync(run)
    assert newest(run).step == 20


def test_file_of_a_killed_upload_is_removed(run):
    """A file without a marker is removed with the next upload, and committed ones are kept."""
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


def test_status_reports_that_no_checkpoint_can_be_uploaded(run, monkeypatch, until):
    """The progress contains the reason, until a checkpoint could be uploaded."""
    monkeypatch.setattr("getiaction_launch.mirror.mirror.POLL_SECONDS", 0.01)
    monkeypatch.setattr("getiaction_launch.mirror.uploading.lanes.RECORD_SECONDS", 0.0)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("full bucket")

    run.local.write("progress", {"phase": "training", "step": 12}, durable=False)
    save(run, 10)
    mirror = Mirror(run)
    with monkeypatch.context() as patch:
        patch.setattr("getiaction_launch.mirror.uploading.lanes.upload", refuse)
        mirror.start()
        until(lambda: "full bucket" in (run.read("progress") or {}).get("upload_error", ""))
    until(lambda: newest(run))
    until(lambda: "upload_error" not in run.read("progress"))
    mirror.close(LIMIT_SECONDS)


def test_truncated_checkpoint_does_not_count(run):
    """An object of another size than its marker says is not a checkpoint."""
    save(run, 10)
    sync(run)
    save(run, 20)
    sync(run)
    stored = newest(run).path
    fs, key = file_system(stored)
    fs.pipe_file(key, b"w")
    assert newest(run).step == 10


def test_last_two_checkpoints_stay_on_storage(run):
    """As on a disk, older ones are removed."""
    for step in (10, 20, 30):
        save(run, step)
        sync(run)
    assert [checkpoint.step for checkpoint in all_committed(run)] == [20, 30]
    assert len(names(run.launch_directory / "checkpoints")) == 4


def test_progress_and_checkpoints_do_not_wait_for_the_period(run, until):
    """Both are uploaded at once, even if the period is long."""
    mirror = Mirror(run, period_seconds=3600)
    mirror.start()
    until(lambda: read_json(run.local.directory / ".files.json") is not None)  # the first sync
    run.local.write("progress", {"step": 7})
    save(run, 10)
    until(lambda: (run.read("progress") or {}).get("step") == 7)
    until(lambda: newest(run))
    mirror.close(LIMIT_SECONDS)


def test_training_is_stopped_when_uploads_fail_for_too_long(run, monkeypatch, capfd, until):
    """A failure is logged and retried; after the limit the workers are asked to stop."""
    save(run, 10)

    with StopRequest() as stop:
        mirror = Mirror(run, period_seconds=0, limit_seconds=0, stop=stop)
        fs, _ = file_system(mirror._lanes[1].work.run.directory)
        with monkeypatch.context() as patch:
            refuse_uploads(patch, fs, OSError("quota exceeded"))
            mirror.start()
            until(lambda: stop.signal)
        assert stop.signal is signal.SIGTERM
    mirror.close(LIMIT_SECONDS)
    said = capfd.readouterr().err
    assert re.search(r"checkpoints could not be uploaded: .*fit_0_step_10.*: quota exceeded", said)
    assert newest(run).step == 10


def test_nodes_of_one_machine_share_the_work(run):
    """While one node uploads, the other waits, and then has nothing left to upload."""
    append(run.local.log_directory(0) / "rank_0.log", "said\n")
    with (run.local.directory / ".files.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="an upload has not ended"):
            Mirror(run).close(0)
    sync(run)
    sync(run)
    assert names(run.log_directory(0)) == ["rank_0.log"]


def test_checkpoint_with_a_damaged_marker_is_uploaded_again(run):
    """An unreadable marker on storage does not make uploads fail."""
    save(run, 10)
    sync(run)
    fs, key = file_system(newest(run).path.with_suffix(".json"))
    fs.pipe_file(key, b'{"step": 10')
    assert newest(run) is None
    sync(run)
    assert newest(run).step == 10
