"""The rows of large datasets are mapped from the cache, and equal to those read into memory."""

import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import filelock
import numpy as np
import pytest
import torch
from damage import ROWS, STATS, edit, refusal, replaced
from samples import assert_same

from getiaction.data import (
    DatasetError,
    LeRobotDataModule,
    LeRobotDataset,
    cache_lock,
    column_cache,
)
from getiaction.data.columns import load_columns

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT = DATA / "pusht_like_v30"


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Have every dataset mapped, and list each time that data files are converted."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(column_cache, "MIN_BYTES", 0)
    found = []

    def count(*args: Any) -> Any:
        found.append(args)
        return load_columns(*args)

    monkeypatch.setattr(column_cache, "load_columns", count)
    return found


def entries(tmp_path: Path) -> list[str]:
    """Return what is in the cache of columns, but the locks."""
    found = (tmp_path / "cache/columns").glob("*")
    return [path.name for path in found if path.suffix != ".lock"]


@pytest.mark.parametrize(
    "name", ["pusht_like_v30", "images_only_v30", "many_features_v30", "aloha_like_v21"]
)
def test_mapped_rows_are_those_in_memory(
    loads: list[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers, texts, objects and stored images are equal, and are converted only once."""
    deltas = {"action": [0, 1, 2]}
    first, again = LeRobotDataset(root=DATA / name), LeRobotDataset(root=DATA / name)
    assert len(loads) == 1
    monkeypatch.setattr(column_cache, "MIN_BYTES", 2**60)
    plain = LeRobotDataset(root=DATA / name)
    assert len(loads) == 2
    for dataset in (first, again):
        assert isinstance(dataset._columns, column_cache.MappedColumns)
        assert dataset.stats == plain.stats
        dataset.delta_indices = plain.delta_indices = deltas
        for index in (0, 7, len(plain) - 1):
            assert_same(dataset[index], plain[index])


def test_a_pickle_has_no_rows(loads: list[Any]) -> None:
    """Loader processes that are not forked map the rows, too."""
    dataset = LeRobotDataset(root=PUSHT)
    content = pickle.dumps(dataset)
    rows = np.ascontiguousarray(dataset._columns["index"][:20]).tobytes()
    assert rows in pickle.dumps(dict(dataset._columns))
    assert rows not in content
    restored = pickle.loads(content)  # noqa: S301 - our own bytes
    assert_same(restored[7], dataset[7])
    assert len(loads) == 1


def test_changed_files_are_read_again_whatever_their_size_and_time(
    loads: list[Any], v30: Path
) -> None:
    """Rows are found by the contents of the files, which a copy may give any time."""
    before, facts = LeRobotDataset(root=v30)[45]["next.reward"], (v30 / ROWS).stat()
    edit(v30, "next.reward", replaced(45, 3.0))
    os.utime(v30 / ROWS, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert LeRobotDataset(root=v30)[45]["next.reward"] == 3.0 != before
    assert len(loads) == 2


def test_a_moved_copy_is_mapped_from_the_same_files(loads: list[Any], v30: Path) -> None:
    """A node's own copy of a dataset needs no rows of its own."""
    LeRobotDataset(root=PUSHT)
    (v30 / ROWS).touch()
    LeRobotDataset(root=v30)
    assert len(loads) == 1


def test_a_full_disk_is_said_and_the_rows_are_read_into_memory(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written if that leaves no room for checkpoints; the samples are the same."""
    disk = SimpleNamespace(total=10**12, free=20 * 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk)
    full = r"needed, and 20\.0 GB free, of which 20\.0 GB are kept.*Set GETIACTION_CACHE"
    with pytest.warns(UserWarning, match=full):
        dataset = LeRobotDataset(root=PUSHT)
    assert dataset[7]["index"] == 7
    assert (len(loads), entries(tmp_path)) == (1, [])


def test_a_disk_that_fails_while_it_is_written_leaves_nothing(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quotas are noticed only by a write that fails."""

    def fail(*_: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(column_cache, "_sync", fail)
    with pytest.warns(UserWarning, match="Disk quota exceeded"):
        assert LeRobotDataset(root=PUSHT)[7]["index"] == 7
    assert (len(loads), entries(tmp_path)) == (1, [])


def test_a_cache_that_cannot_be_made_is_said(
    loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A home that is read-only, or no folder at all, does not stop training."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path / "file/cache"))
    with pytest.warns(UserWarning, match="Not a directory"):
        assert LeRobotDataset(root=PUSHT)[7]["index"] == 7
    assert len(loads) == 1


def test_a_damaged_entry_is_said_and_not_used(loads: list[Any], tmp_path: Path) -> None:
    """Rows of a file that was cut off come from the data files."""
    LeRobotDataset(root=PUSHT)
    (entry,) = entries(tmp_path)
    file = tmp_path / "cache/columns" / entry / "0.npy"
    os.truncate(file, file.stat().st_size - 8)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert LeRobotDataset(root=PUSHT)[7]["index"] == 7
    assert len(loads) == 2


@pytest.mark.parametrize("has_locks", [True, False])
def test_many_that_open_at_once_make_one_entry(
    loads: list[Any], tmp_path: Path, has_locks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With locks only one converts the files; without them, the first that is ready counts."""
    if not has_locks:

        def fail(*_: object, **__: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: LeRobotDataset(root=PUSHT), range(4)))
    assert 1 <= len(loads) <= (1 if has_locks else 4)
    assert len(entries(tmp_path)) == 1
    for dataset in found:
        assert isinstance(dataset._columns, column_cache.MappedColumns)
        assert_same(dataset[7], found[0][7])


def test_what_a_killed_process_has_left_is_removed(loads: list[Any], tmp_path: Path) -> None:
    """An unfinished entry goes when the same one is written again, unless it may be at work."""
    LeRobotDataset(root=PUSHT)
    (entry,) = entries(tmp_path)
    folder = tmp_path / "cache/columns" / entry
    left, fresh = (folder.with_name(f".{entry}.{number}") for number in range(2))
    folder.rename(left)
    fresh.mkdir()
    os.utime(left, times=(0, time.time() - 2 * column_cache.UNFINISHED_FOR_SECONDS))
    LeRobotDataset(root=PUSHT)
    assert sorted(entries(tmp_path)) == [fresh.name, entry]
    assert len(loads) == 2


@pytest.mark.usefixtures("loads")
def test_what_a_killed_process_has_left_of_others_is_removed(tmp_path: Path) -> None:
    """Also of an entry that is never written again, since nobody counts it."""
    left = tmp_path / "cache/columns/.another.0"
    left.mkdir(parents=True)
    os.utime(left, times=(0, time.time() - 2 * column_cache.UNFINISHED_FOR_SECONDS))
    LeRobotDataset(root=PUSHT)
    assert not left.exists()


@pytest.mark.usefixtures("loads")
def test_locks_leave_no_files(tmp_path: Path) -> None:
    """Neither those of this process, nor those that were left by one that was killed."""
    left, fresh, held = (tmp_path / f"cache/columns/{name}.lock" for name in ("a", "b", "c"))
    left.parent.mkdir(parents=True)
    for lock in (left, fresh, held):
        lock.touch()
        if lock != fresh:
            os.utime(lock, times=(0, time.time() - 2 * cache_lock.LEFT_FOR_SECONDS))
    with filelock.FileLock(held):
        LeRobotDataset(root=PUSHT)
        assert sorted((tmp_path / "cache").rglob("*.lock")) == [fresh, held]


def test_the_lock_of_a_lost_node_is_waited_for_only_so_long(
    loads: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The user reads what is waited for; then the rows are written, and later starts find them."""
    monkeypatch.setattr(cache_lock, "UNTIL_SAID_SECONDS", 0)
    monkeypatch.setattr(cache_lock, "CHECK_SECONDS", 0)
    monkeypatch.setattr(cache_lock, "UNTIL_GIVEN_UP_SECONDS", 0.01)
    locked: list[Any] = []

    def refuse(lock: Any, timeout: float) -> None:
        locked.append(timeout)
        raise filelock.Timeout(lock.lock_file)

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with caplog.at_level("INFO"):
        first = LeRobotDataset(root=PUSHT)
    (said,) = [text for text in caplog.messages if "that writes rows" in text]
    assert ".lock" in said
    assert_same(LeRobotDataset(root=PUSHT)[7], first[7])
    assert locked
    assert (len(loads), len(entries(tmp_path))) == (1, 1)


def test_who_waits_takes_what_another_has_written_meanwhile(
    loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote the rows need not have held the lock."""
    LeRobotDataset(root=PUSHT)
    folder = column_cache.cache_dir() / "columns" / entries(column_cache.cache_dir().parent)[0]
    hidden = folder.rename(folder.with_name("hidden"))

    def refuse(lock: Any, **_: float) -> None:
        hidden.rename(folder)
        raise filelock.Timeout(lock.lock_file)

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert LeRobotDataset(root=PUSHT)[7]["index"] == 7
    assert len(loads) == 1


def test_errors_of_the_data_files_stay_what_they_are(loads: list[Any], v30: Path) -> None:
    """A damaged data file is no matter of the cache."""
    content = (v30 / ROWS).read_bytes()
    (v30 / ROWS).write_bytes(content[: len(content) // 2])
    assert "Download or copy the file again" in refusal(v30)
    assert len(loads) == 1


def test_a_data_file_that_is_missing_is_named(loads: list[Any], v21: Path) -> None:
    """What cannot be hashed cannot be read either, and reading it has the better message."""
    (v21 / "data/chunk-000/episode_000001.parquet").unlink()
    assert "episode_000001.parquet is missing" in refusal(v21)
    assert len(loads) == 1


def test_training_and_validation_share_their_rows(loads: list[Any]) -> None:
    """Whichever episodes a seed holds out, the rows are read and kept once."""
    for seed in (0, 1):
        datamodule = LeRobotDataModule(root=PUSHT, val_split=0.5, val_split_seed=seed)
        datamodule.setup()
        assert datamodule.train_dataset is not None
        assert datamodule.val_dataset is not None
        assert datamodule.train_dataset._columns is datamodule.val_dataset._columns
    assert len(loads) == 1


@pytest.mark.parametrize("damaged", [5, 45])
def test_episodes_that_are_kept_are_what_they_are_alone(v30: Path, damaged: int) -> None:
    """Samples, windows, statistics and frames that are left out are equal."""
    (v30 / STATS).unlink()
    edit(v30, "action", replaced(damaged, [float("nan"), 0.0]))
    options: dict[str, Any] = {"root": v30, "non_finite": "drop"}
    options["delta_timestamps"] = {"action": [-0.1, 0.0, 0.1], "observation.image": [0.0, 0.1]}
    subset = LeRobotDataset(**options)
    subset.keep_episodes([4, 1])
    alone = LeRobotDataset(episodes=[4, 1], **options)
    assert (subset.episodes, subset.num_episodes, subset.stats) == ([4, 1], 2, alone.stats)
    assert len(subset) == len(alone)
    for index in (0, 4, 5, len(alone) // 2, len(alone) - 1, -1):
        assert_same(subset[index], alone[index])
    one, other = (dataset.read_batch([3, 60, 4]) for dataset in (subset, alone))
    assert torch.equal(one["action"], other["action"])
    assert torch.equal(one["action_is_pad"], other["action_is_pad"])


def test_episodes_without_frames_cannot_be_kept(v30: Path) -> None:
    """If all frames of an episode are left out, there is nothing to train on."""
    first = LeRobotDataset(root=v30, episodes=[0])
    bad = [[float("nan"), 0.0]] * len(first)
    edit(v30, "action", lambda rows: bad + rows[len(bad) :])
    dataset = LeRobotDataset(root=v30, non_finite="drop")
    with pytest.raises(DatasetError, match=r"episodes=\[0\] have no frames"):
        dataset.keep_episodes([0])
