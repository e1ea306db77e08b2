"""How a run is uploaded: side by side, each file read once, and the ledger written once."""

import concurrent.futures
import io
import os
import threading
import time
from pathlib import Path

import pytest
from clusters.proxy import Proxy
from staged import sync

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror import ledger
from getiaction_launch.mirror.ledger import FILES, Ledger, Segmented, Whole
from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.transfer import hash_of
from getiaction_launch.mirror.uploading import parts
from getiaction_launch.mirror.uploading.room import Room
from getiaction_launch.run.checkpoint import Marker, commit, newest, partial_path
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import file_system
from getiaction_launch.storage.tree import find

SIDE_BY_SIDE = 8
PART_BYTES = 5 << 20  # S3 takes no smaller ones


@pytest.fixture
def root(bucket: str, proxy: Proxy) -> str:
    """A root on S3, behind the proxy."""
    del proxy
    return f"{bucket}/experiments"


@pytest.fixture
def small_parts(monkeypatch) -> None:
    """Parts of the smallest size, so that few bytes are many parts."""
    monkeypatch.setattr(parts, "PART_BYTES", PART_BYTES)


def save_large(run: Run, step: int, size_bytes: int) -> Path:
    """Commit a large checkpoint on this machine."""
    partial = partial_path(run.local, 0, step)
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(os.urandom(1 << 20) * (size_bytes >> 20) + b"end")
    about = {"epoch": 0, "reason": "period", "saved_at": time.time()}
    return commit(run.local, attempt=0, fit=0, step=step, **about).path


@pytest.mark.usefixtures("small_parts")
def test_parts_go_side_by_side_and_the_file_is_read_once(run, proxy, monkeypatch, tmp_path):
    """The marker has the hash of what was uploaded, and nobody opens the file for that."""
    path = save_large(run, 10, SIDE_BY_SIDE * PART_BYTES)
    opened, original = [], io.open

    def open_counted(file: object, *words: object, **more: object) -> object:
        opened.append(file)
        return original(file, *words, **more)

    monkeypatch.setattr(io, "open", open_counted)
    proxy.gate = SIDE_BY_SIDE
    sync(run)
    assert proxy.most_puts >= SIDE_BY_SIDE
    assert opened.count(path) == 1
    stored = newest(run)
    assert Marker.read(stored.path).sha256 == hash_of(path)
    fs, key = file_system(stored.path)
    fs.get_file(key, str(tmp_path / "back"))
    assert hash_of(tmp_path / "back") == hash_of(path)


@pytest.mark.usefixtures("small_parts", "proxy")
def test_upload_that_fails_leaves_no_parts(run, monkeypatch):
    """It is aborted when no part is under way any more, and a part that fails is retried."""
    save_large(run, 10, 4 * PART_BYTES)
    request, tries = parts._request, []
    monkeypatch.setattr(parts, "PAUSE_SECONDS", 0)

    async def refuse(fs, where, number, part):
        if number == 3:
            tries.append(number)
            if len(tries) <= parts.TRIES + 1:  # in the second upload, the second try succeeds
                part.read()  # as a try does that breaks off at the end
                raise OSError("cut off")
        return await request(fs, where, number, part)

    monkeypatch.setattr(parts, "_request", refuse)
    with pytest.raises(StorageError, match="cut off"):
        Mirror(run).close(0)
    fs, key = file_system(run.directory)
    listed = fs.call_s3("list_multipart_uploads", Bucket=key.partition("/")[0])
    assert not listed.get("Uploads")
    assert len(tries) == parts.TRIES
    assert newest(run) is None
    Mirror(run).close(0)  # which does not begin anew: the part itself is sent again, as a whole
    assert newest(run).step == 10


@pytest.mark.usefixtures("small_parts")
def test_file_that_cannot_be_read_to_its_end_is_not_sent_on(run, monkeypatch):
    """Parts that are under way are waited for, and those that wait are dropped."""
    go, sent = threading.Event(), []

    class Pool(concurrent.futures.ThreadPoolExecutor):
        def __exit__(self, *words: object) -> bool | None:
            go.set()
            return super().__exit__(*words)

    def send_part(_fs: object, _where: object, number: int, _part: object) -> str:
        assert go.wait(30)
        sent.append(number)
        return "etag"

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() == 2 * parts.PARALLEL_PARTS:
                raise OSError("the disk failed")
            return super().read(min(1, size or 1))

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(parts, "_send_part", send_part)
    fs, key = file_system(run.directory / "large.ckpt")
    with pytest.raises(OSError, match="the disk failed"):
        parts.send(fs, key, Broken(bytes(100)), 100 * PART_BYTES, None)
    assert len(sent) <= parts.PARALLEL_PARTS


def test_small_files_go_side_by_side_and_the_ledger_is_written_once(run, proxy, monkeypatch):
    """With as few requests as there are files, however many there are."""
    for number in range(40):
        (run.local.directory / f"image_{number}.txt").write_text(str(number))
    writes, original = [], ledger.write_json

    def write_counted(path: Path, *words: object, **more: object) -> None:
        writes.append(path)
        original(path, *words, **more)

    monkeypatch.setattr(ledger, "write_json", write_counted)
    proxy.gate = 16
    before = len(proxy.requests)
    sync(run)
    assert proxy.most_puts == 16
    assert len(writes) == 2  # one of each lane
    assert len(proxy.requests) - before < 40 + 20
    found = find(run.directory).sizes
    assert sum(path.startswith("image_") for path in found) == 40
    assert (run.directory / "image_7.txt").read_text() == "7"
    sync(run)
    assert len(writes) == 2  # nothing is new


@pytest.mark.usefixtures("proxy")
def test_ledger_outlives_a_kill_between_two_files(run):
    """What was recorded is known afterwards, but for a line that was not written to its end."""
    directory = run.local.directory
    first = Ledger(directory, FILES)
    first.record("a.txt", Whole(1, 2))
    first.write()
    first.record("b.txt", Whole(3, 4))
    first.record("c.log", Segmented(2, 5, 9, is_there=False))
    first.forget("a.txt")
    with (directory / f".{FILES}.jsonl").open("a") as journal:
        journal.write('\n{"d.txt": {"size": 1')
    first.record("e.txt", Whole(5, 6))
    read = Ledger(directory, FILES, first)
    assert read.files == {
        "b.txt": Whole(3, 4),
        "c.log": Segmented(2, 5, 9, is_there=False),
        "e.txt": Whole(5, 6),
    }
    read.write()
    assert Ledger(directory, FILES).files == read.files
    assert not (directory / f".{FILES}.jsonl").exists()


def test_memory_of_uploads_is_bounded():
    """Bodies wait until there is room, and eight go side by side however large they are."""
    room = Room(80 << 20)
    for _ in range(8):
        room.take(1 << 40)
    with room.holding(1 << 10):  # a log does not wait
        assert room._taken_bytes == 80 << 20
    room.give_back(1 << 40)
    with room.holding(10 << 20):
        assert room._taken_bytes == 80 << 20
    assert room._taken_bytes == 70 << 20
