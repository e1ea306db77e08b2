"""What is gone from a staging directory is not gone from storage, unless the run removed it."""

import os
import socket
import time
from pathlib import Path

import pytest
from staged import append, discard, elsewhere, names, save, sync

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.pull import NEWEST, pull_checkpoint
from getiaction_launch.mirror.staging import prepare
from getiaction_launch.mirror.transfer import upload
from getiaction_launch.mirror.uploading.lanes import READ_SECONDS
from getiaction_launch.mirror.uploading.parts import MAX_OBJECT_BYTES, part_bytes
from getiaction_launch.mirror.uploading.sync import Sync
from getiaction_launch.run.checkpoint import all_committed, commit, newest, partial_path
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import file_system, open_path, remove
from getiaction_launch.storage.tree import find

GIB = 2**30
MAX_PARTS = 10_000


@pytest.fixture
def root(bucket: str) -> str:
    """A root on S3."""
    return f"{bucket}/experiments"


@pytest.fixture
def local(run: Run) -> Path:
    """The staging directory of a run whose first attempt has begun, with files of every kind."""
    prepare(run, 0, 0, None)
    local = run.local.directory
    (local / "checkpoints").mkdir()
    for epoch in range(2):
        (local / f"checkpoints/epoch={epoch}.ckpt").write_text("best")
    append(local / "launch/logs/attempt_0/rank_0.log", "said\n")
    append(local / "events.out.tfevents.1", "")
    save(run, 10)
    sync(run)
    return local


def test_storage_keeps_what_others_delete_here(run, local, capfd):
    """When tmpreaper deletes everything, the mirror's own records included, nothing is lost.

    What is written afterwards is uploaded, and a log continues behind what storage has.
    """
    before = find(run.directory).sizes
    mirror = Mirror(run)
    mirror._lanes[0].work.sync(is_last=False)
    mirror._lanes[1].work.sync(is_last=False)
    for path in local.rglob("*"):
        if path.is_file():
            path.unlink()
    append(local / "launch/logs/attempt_0/rank_0.log", "more\n")
    mirror.close(30)
    assert find(run.directory).sizes.items() >= before.items()
    logs = run.log_directory(0)
    assert [(logs / name).read_text() for name in names(logs)] == ["said\n", "more\n"]
    said = capfd.readouterr().err
    assert "2 files gone from" in said
    assert "'checkpoints/epoch=0.ckpt'" in said
    sync(run)
    assert newest(run).step == 10


def test_file_that_vanishes_before_its_upload_is_named(run, local, capfd):
    """The node's log says what is lost; a file that was renamed is not."""
    lane = Sync(run, "checkpoints")
    for name in ("lost", "kept"):
        (local / f"checkpoints/{name}.tmp").write_text(name)
    lane.run(is_last=False)  # too young to be complete
    (local / "checkpoints/lost.tmp").unlink()
    (local / "checkpoints/kept.tmp").rename(local / "checkpoints/kept.ckpt")
    lane.run(is_last=True)
    said = capfd.readouterr().err
    assert "'checkpoints/lost.tmp'" in said
    assert "kept" not in said
    assert "kept.ckpt" in names(run.directory / "checkpoints")


def test_only_the_runs_own_removals_reach_storage(run, local):
    """Of a file and of a directory; a file that is written again stays, and so does every log."""
    (local / "checkpoints/shards").mkdir()
    (local / "checkpoints/shards/.metadata").write_text("index")
    (local / "weights.ckpt").write_text("elsewhere")
    sync(run)
    for path in ("checkpoints/epoch=0.ckpt", "checkpoints/shards", "weights.ckpt"):
        discard(run, path)
    discard(run, "checkpoints/epoch=1.ckpt")
    (local / "checkpoints/epoch=1.ckpt").write_text("again")
    discard(run, "launch/logs/attempt_0/rank_0.log")
    sync(run)
    assert names(run.directory / "checkpoints") == ["epoch=1.ckpt"]
    assert not {"weights.ckpt"} & set(names(run.directory))
    assert names(run.log_directory(0)) == ["rank_0.log"]
    (local / "checkpoints/epoch=1.ckpt").unlink()  # the earlier removal counts no more
    sync(run)
    assert names(run.directory / "checkpoints") == ["epoch=1.ckpt"]


def test_a_name_that_looks_like_a_pattern_removes_itself_alone(run):
    """Not what it would match."""
    for name in ("a[1].ckpt", "a1.ckpt", "b*.ckpt", "b2.ckpt", "c?/shard", "c3/shard"):
        (run.directory / "checkpoints" / name).write_text(name)
    for name in ("a[1].ckpt", "b*.ckpt", "c?", "d*"):
        remove(run.directory / "checkpoints" / name)
    assert names(run.directory / "checkpoints") == ["a1.ckpt", "b2.ckpt", "c3"]


def test_vanished_checkpoint_is_there_again_in_the_next_attempt(run, local):
    """The user's callbacks find it where they have saved it."""
    (local / "checkpoints/epoch=1.ckpt").unlink()
    sync(run)
    prepare(run, 1, 0, None)
    assert (local / "checkpoints/epoch=1.ckpt").read_text() == "best"


def test_log_that_is_emptied_or_continued_elsewhere_loses_nothing(
    run, local, tmp_path, monkeypatch
):
    """What storage has of it stays, and what is written later comes behind that."""
    append(local / "train.log", "first\n")
    sync(run)
    (local / "train.log").write_text("2nd\n")  # as a logger does that starts over
    sync(run)
    elsewhere(run, tmp_path, monkeypatch)
    prepare(run, 1, 0, None)
    append(run.local.directory / "train.log", "third, on another machine\n")
    sync(run)
    found = sorted(name for name in names(run.directory) if name.startswith("train"))
    assert [(run.directory / name).read_text() for name in found] == [
        "first\n",
        "2nd\n",
        "third, on another machine\n",
    ]


def test_file_that_cannot_be_uploaded_does_not_stop_the_others(run, local, tmp_path, capfd):
    """Links, pipes, sockets and odd names: each is named once, and the directory is kept."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/set.bin").write_text("not of the run")
    (local / "data").symlink_to(tmp_path / "data")
    (local / "loop").symlink_to(local)
    (local / "broken").symlink_to(tmp_path / "nothing")
    (local / "itself").symlink_to("itself")
    (local / "last.ckpt").symlink_to("checkpoints/epoch=1.ckpt")
    (local / "latest").symlink_to("checkpoints")
    os.mkfifo(local / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(local)  # the address is limited to 107 bytes
        server.bind("socket")
        os.chdir(here)
        (local / "a\x1b]0;b").write_text("x")
        (local / os.fsdecode(b"\xff")).write_text("x")
        (local / "notes.txt").write_text("mine")
        mirror = Mirror(run)
        mirror.close(30)
        mirror.close(30)
    assert set(mirror.refused) == {"data", "itself", "a\x1b]0;b", os.fsdecode(b"\xff")}
    assert "last.ckpt" in names(run.directory)
    assert names(run.directory / "latest") == ["epoch=0.ckpt", "epoch=1.ckpt"]
    assert (run.directory / "notes.txt").read_text() == "mine"
    said = capfd.readouterr().err
    assert said.count("'data' cannot be uploaded: it is a link to a directory elsewhere") == 1
    assert "\x1b" not in said


def test_file_that_shrinks_during_its_upload_is_uploaded_again(run, local, monkeypatch):
    """Storage has the file as it is at last."""
    fs, _ = file_system(open_path(run.directory, read_seconds=READ_SECONDS))
    call, path = fs._call_s3, local / "notes.txt"
    path.write_text("long words")

    async def call_s3(method: str, **words: object) -> object:
        answer = await call(method, **words)
        if str(words.get("Key")).endswith("notes.txt") and path.read_text() != "short":
            path.write_text("short")
        return answer

    monkeypatch.setattr(fs, "_call_s3", call_s3)
    lane = Sync(Run(open_path(run.directory, read_seconds=READ_SECONDS)), "files")
    lane.run(is_last=True)
    lane.run(is_last=True)
    assert (run.directory / "notes.txt").read_text() == "short"


def test_checkpoint_that_is_removed_during_its_upload_counts(run, local, monkeypatch):
    """As when a newer one replaces it: everything was read, and is on storage."""
    fs, _ = file_system(run.directory)
    call, path = fs._call_s3, local / "checkpoints/epoch=0.ckpt"

    async def call_s3(method: str, **words: object) -> object:
        path.unlink()
        return await call(method, **words)

    monkeypatch.setattr(fs, "_call_s3", call_s3)
    upload(path, run.directory / "copy.ckpt")
    monkeypatch.undo()
    assert (run.directory / "copy.ckpt").read_text() == "best"


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [
        (0, 16 << 20),
        (150 * 10**9, 16 << 20),
        (16 * MAX_PARTS << 20, 18 << 20),
        (200 * GIB, 23 << 20),
        (MAX_OBJECT_BYTES, 583 << 20),
    ],
)
def test_parts_grow_with_the_file(size_bytes, expected):
    """S3 takes 10,000 parts of at most 5 GiB; a smaller file keeps small ones, which retry fast."""
    assert part_bytes(size_bytes) == expected
    assert -(-size_bytes // expected) <= MAX_PARTS


def test_file_that_s3_refuses_is_refused_before_its_upload(run, tmp_path, monkeypatch):
    """The error names the file, and nothing of it is sent."""
    fs, _ = file_system(run.directory)
    monkeypatch.setattr(fs, "_call_s3", lambda *words, **_: pytest.fail(f"{words} was sent"))
    file = tmp_path / "sparse"
    try:
        with file.open("wb") as sparse:
            sparse.truncate(MAX_OBJECT_BYTES + 1)
    except OSError:
        pytest.skip("this file system has no files of that size")
    with pytest.raises(StorageError, match=r"sparse cannot be uploaded.*5\.0 TiB"):
        upload(file, run.directory / "sparse")


def test_folder_checkpoint_comes_back_whole(run, tmp_path, monkeypatch):
    """Hidden files included; the marker is uploaded last, and the index after all parts."""
    prepare(run, 0, 0, None)
    fs, _ = file_system(open_path(run.directory, read_seconds=READ_SECONDS))
    call, order = fs._call_s3, []

    async def call_s3(method: str, *words: object, **more: object) -> object:
        if method == "put_object":
            order.append(str(more["Key"]).rpartition("version_0/")[2])
        return await call(method, *words, **more)

    monkeypatch.setattr(fs, "_call_s3", call_s3)
    users = run.local.directory / "checkpoints/epoch=0.ckpt"
    for place in (partial_path(run.local, 0, 5), users):
        place.mkdir(parents=True)
        for name in ("__0_0.distcp", ".metadata", "meta.pt"):
            (place / name).write_text(name)
    commit(run.local, attempt=0, fit=0, step=5, epoch=0, reason="period", saved_at=time.time())
    sync(run)
    assert order[-1] == "checkpoints/epoch=0.ckpt/.metadata"
    assert [checkpoint.step for checkpoint in all_committed(run)] == [5]
    pulled = pull_checkpoint(run, "epoch=0.ckpt", tmp_path / "a")
    assert {p.name: p.read_text() for p in pulled.iterdir()} == {
        name: name for name in ("__0_0.distcp", ".metadata", "meta.pt")
    }
    assert pull_checkpoint(run, NEWEST, tmp_path / "b").is_dir()
    elsewhere(run, tmp_path, monkeypatch)
    prepare(run, 1, 0, str(newest(run).path))
    assert (newest(run.local).path / ".metadata").read_text() == ".metadata"
    assert (run.local.directory / "checkpoints/epoch=0.ckpt/.metadata").exists()
    fs.rm_file(file_system(newest(run).path)[1] + "/.metadata")
    assert newest(run) is None
