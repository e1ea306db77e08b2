"""Large files are read for their hashes once per node, and again when they may have changed."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import psutil
import pytest

from getiaction.data import file_hashes
from getiaction.data.file_hashes import hash_files


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Three files, whose last change counts as old, in a file system that keeps change times."""
    mount_as("ext4", monkeypatch)
    monkeypatch.setitem(file_hashes.SETTLED_AFTER_SECONDS, "ext4", -3600)
    names = [tmp_path / "data" / f"{number}.parquet" for number in range(3)]
    for name in names:
        name.parent.mkdir(exist_ok=True)
        name.write_text(name.stem)
    return names


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """List each time that a file is read."""
    found: list[Path] = []
    original = file_hashes._hash

    def note(file: Path) -> str:
        found.append(file)
        return original(file)

    monkeypatch.setattr(file_hashes, "_hash", note)
    return found


def mount_as(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have all files in a file system of some kind, or their last change count as new."""
    if kind == "new":
        monkeypatch.setitem(file_hashes.SETTLED_AFTER_SECONDS, "ext4", 3600)
        return
    mounts = [SimpleNamespace(mountpoint="/", fstype=kind)]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)


def test_files_are_read_once_as_long_as_they_do_not_change(
    files: list[Path], read: list[Path], tmp_path: Path
) -> None:
    """Later ranks and starts find the hashes, and others' folders and files are not confused."""
    first = hash_files(files, tmp_path / "cache")
    assert len(set(first)) == len(read) == 3
    assert hash_files(files, tmp_path / "cache") == first
    assert len(read) == 3
    assert hash_files(files[:2], tmp_path / "cache") == first[:2]
    assert hash_files(files[::-1], tmp_path / "cache") == first[::-1]
    assert [path.suffix for path in (tmp_path / "cache").iterdir()].count(".json") == 3


@pytest.mark.parametrize("how", ["written over", "replaced"])
def test_a_change_is_seen_though_size_and_time_are_those_of_before(
    files: list[Path], read: list[Path], tmp_path: Path, how: str
) -> None:
    """`cp --preserve` and `rsync` restore the time of a file, but not that of its last change."""
    first, facts = hash_files(files, tmp_path / "cache"), files[1].stat()
    place = files[1] if how == "written over" else tmp_path / "new"
    place.write_text("x")
    os.utime(place, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    place.replace(files[1])
    assert (files[1].stat().st_size, files[1].stat().st_mtime_ns) == (1, facts.st_mtime_ns)
    changed = hash_files(files, tmp_path / "cache")
    assert [changed[number] == first[number] for number in range(3)] == [True, False, True]
    assert len(read) == 6


@pytest.mark.parametrize("reason", ["new", "overlay", "fuse.sshfs", "squashfs", ""])
def test_what_could_change_unseen_is_read_at_each_start(
    files: list[Path],
    read: list[Path],
    tmp_path: Path,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that has just been written, or whose file system may not note when it changes."""
    mount_as(reason, monkeypatch)
    first = hash_files(files, tmp_path / "cache")
    assert hash_files(files, tmp_path / "cache") == first
    assert len(read) == 6


@pytest.mark.parametrize("kind", ["new", "ext4"])
def test_ranks_that_wait_take_the_hashes_of_the_one_that_reads(
    files: list[Path],
    read: list[Path],
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files that were read after a rank had asked are as good as read by it, however new."""
    mount_as(kind, monkeypatch)
    all_ask = threading.Barrier(8, timeout=60)
    acquire = filelock.FileLock.acquire

    def ask(lock: Any, **options: Any) -> Any:
        all_ask.wait()
        return acquire(lock, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", ask)
    with ThreadPoolExecutor(8) as ranks:
        found = list(ranks.map(lambda _: hash_files(files, tmp_path / "cache"), range(8)))
    assert all(each == found[0] for each in found)
    assert len(read) == 3


def test_files_that_change_while_they_are_read_are_read_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read of them counts for this process only."""
    original, late = file_hashes._hash, []

    def change(file: Path) -> str:
        found = original(file)
        if file == files[2] and not late:
            late.append(file)
            file.write_text("x")
        return found

    monkeypatch.setattr(file_hashes, "_hash", change)
    first = hash_files(files, tmp_path / "cache")
    assert hash_files(files, tmp_path / "cache")[2] != first[2]


def test_a_cache_that_cannot_be_used_costs_time_only(
    files: list[Path], read: list[Path], tmp_path: Path
) -> None:
    """There may be no folder for it, and a record may be damaged."""
    hashes = hash_files(files, tmp_path / "cache")
    assert hash_files(files, files[0] / "cache") == hashes
    assert len(read) == 6
    (record,) = (tmp_path / "cache").glob("*.json")
    for damage in ("", "[]", '{"begun_at": 0}', '{"hashes": null}'):
        record.write_text(damage)
        read.clear()
        assert hash_files(files, tmp_path / "cache") == hashes
        assert len(read) == 3


def test_records_that_nobody_uses_are_removed(
    files: list[Path], read: list[Path], tmp_path: Path
) -> None:
    """Jobs that copy a dataset to another folder each time do not fill the cache."""
    for number in (1, 2):
        hash_files(files[:number], tmp_path / "cache")
    for record in (tmp_path / "cache").glob("*.json"):
        os.utime(record, (0, 0))
    hash_files(files[:1], tmp_path / "cache")  # so this one is in use
    hash_files(files, tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2
    read.clear()
    hash_files(files[:1], tmp_path / "cache")
    assert read == []
