"""Cached rows beyond a limit are removed, the least recently used first, and none in use."""

import os
from pathlib import Path

import pytest
from damage import edit, replaced

from getiaction.data import DatasetError, LeRobotDataset, column_cache, column_eviction
from getiaction.data.column_cache import MappedColumns

PUSHT = Path(__file__).parents[1] / "data" / "lerobot" / "pusht_like_v30"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every dataset mapped, from a cache of this test, which may keep nothing unused."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("GETIACTION_COLUMNS_GB", "0")
    monkeypatch.setattr(column_cache, "MIN_BYTES", 0)
    monkeypatch.setattr(column_eviction, "_held", {})


def opened(root: Path, reward: float) -> Path:
    """Open a dataset with other rows, and return the entry that it is mapped from."""
    edit(root, "next.reward", replaced(45, reward))
    dataset = LeRobotDataset(root=root)
    assert dataset[45]["next.reward"] == reward
    assert isinstance(dataset._columns, MappedColumns)
    return dataset._columns.folder


def end_of_use(folder: Path, used_at: int) -> None:
    """Do what the kernel does when a process ends, and set when it has used the entry."""
    os.close(column_eviction._held.pop(folder))
    os.utime(folder, (used_at, used_at))


def test_what_is_in_use_stays_and_the_rest_goes(v30: Path) -> None:
    """A limit of nothing removes no rows in use, and leaves no part of others."""
    unused, used = opened(v30, 1.0), opened(v30, 2.0)
    assert unused.is_dir()
    end_of_use(unused, 1)
    newest = opened(v30, 3.0)
    left = [path for path in newest.parent.iterdir() if path.suffix != ".lock"]
    assert sorted(left) == sorted([used, newest])


@pytest.mark.parametrize("oldest", [0, 1, 2])
def test_the_least_recently_used_goes_first(
    v30: Path, oldest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use counts, not age, and no more is removed than needed."""
    monkeypatch.setenv("GETIACTION_COLUMNS_GB", "inf")
    entries = [opened(v30, float(reward)) for reward in range(3)]
    again = (oldest + 1) % 3
    for number, folder in enumerate(entries):
        end_of_use(folder, {oldest: 2, again: 1}.get(number, 3))
    assert opened(v30, float(again)) == entries[again]
    os.close(column_eviction._held.pop(entries[again]))
    size = sum(file.stat().st_size for file in entries[0].iterdir())
    monkeypatch.setenv("GETIACTION_COLUMNS_GB", str(3.5 * size / 1e9))
    assert opened(v30, 4.0).is_dir()
    assert [each.is_dir() for each in entries] == [number != oldest for number in range(3)]


def test_rows_that_are_removed_before_they_are_mapped_are_written_again(
    v30: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was about to map them sees no error."""
    folder = opened(v30, 1.0)
    end_of_use(folder, 1)
    hold, removed = column_eviction.hold, []

    def remove_first(entry: Path) -> None:
        if not removed:
            removed.append(entry)
            column_eviction._remove(entry)
        hold(entry)

    monkeypatch.setattr(column_cache, "hold", remove_first)
    assert opened(v30, 1.0) == folder == removed[0]


@pytest.mark.parametrize("text", ["many", "-1", "nan"])
def test_a_limit_that_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the variable, its value and the fix."""
    monkeypatch.setenv("GETIACTION_COLUMNS_GB", text)
    with pytest.raises(DatasetError, match=f"GETIACTION_COLUMNS_GB='{text}'. Set a size in GB"):
        LeRobotDataset(root=PUSHT)


def test_other_folders_are_not_counted(v30: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed to make room for files that are not of the cache, and they stay."""
    used = opened(v30, 1.0)
    end_of_use(used, 1)
    (used.parent / "own").mkdir()
    (used.parent / "own" / "notes").write_bytes(bytes(10**6))
    monkeypatch.setenv("GETIACTION_COLUMNS_GB", "1e-3")
    assert opened(v30, 2.0).is_dir()
    assert used.is_dir()
    assert (used.parent / "own" / "notes").is_file()


def test_newest_entry_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """Another process with another limit may have removed it."""
    column_eviction.evict(tmp_path / "gone", 0)
