"""Remote datasets are downloaded once, whole files at a time, from URLs."""

import errno
import fcntl
import itertools
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from samples import assert_same

from getiaction.data import DatasetError, LeRobotDataModule, LeRobotDataset, source
from getiaction.downloads import behind, files

DATA = Path(__file__).parents[1] / "data" / "lerobot"
PUSHT = DATA / "pusht_like_v30"
ALOHA = DATA / "aloha_like_v21"
VIDEOS = "videos/chunk-000/observation.images.top/episode_{:06d}.mp4"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test a cache of its own."""
    monkeypatch.setenv("GETIACTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "PAUSES_SECONDS", (0, 0))
    return tmp_path / "cache"


@contextmanager
def in_memory(folder: Path, name: str) -> Iterator[str]:
    """Have a copy of a dataset on fsspec's in-memory file system; its URL."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{folder}/", f"/bucket/{name}", recursive=True)
    yield f"memory://bucket/{name}"
    filesystem.rm("/bucket", recursive=True)


@pytest.fixture
def memory_root() -> Iterator[str]:
    """Put a dataset on a remote file system (fsspec's in-memory one) and give its URL."""
    with in_memory(PUSHT, "pusht") as url:
        yield url


@pytest.fixture
def aloha_root() -> Iterator[str]:
    """Put a dataset with a video for each episode on a remote file system."""
    with in_memory(ALOHA, "aloha") as url:
        yield url


def test_a_remote_root_is_read_from_a_local_copy(memory_root: str, cache: Path) -> None:
    """A dataset behind a URL gives the same samples; its files land in the cache."""
    dataset = LeRobotDataset(root=memory_root)
    assert_same(dataset[150], LeRobotDataset(root=PUSHT)[150])
    assert dataset.root.is_relative_to(cache)
    assert not [path for path in cache.rglob(".*") if path.is_file()]


def test_a_file_url_is_a_local_folder(cache: Path) -> None:
    """A `file://` root is read in place."""
    assert LeRobotDataset(root=f"file://{PUSHT}").root == PUSHT
    assert not cache.exists()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each file that is copied from the in-memory file system."""
    names: list[str] = []
    filesystem = type(fsspec.filesystem("memory"))
    get_file = filesystem.get_file

    def note(self: Any, remote: str, local: str, **kwargs: Any) -> None:
        names.append(remote)
        get_file(self, remote, local, **kwargs)

    monkeypatch.setattr(filesystem, "get_file", note)
    return names


def test_a_remote_file_is_copied_only_once(memory_root: str, copied: list[str]) -> None:
    """A second reader copies nothing, unless it asks for it."""
    LeRobotDataset(root=memory_root)
    assert len(copied) == len(set(copied)) == 6
    LeRobotDataset(root=memory_root)
    assert len(copied) == 6
    LeRobotDataset(root=memory_root, force_cache_sync=True)
    assert len(copied) == 12


def test_a_copy_that_fails_leaves_no_part_of_a_file(
    memory_root: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a broken connection has brought of a file is removed, and the cause is named."""

    def fail(_: Any, __: str, local: str, **___: Any) -> None:
        Path(local).write_bytes(b"half")
        msg = "connection reset"
        raise OSError(msg)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", fail)
    with pytest.raises(
        DatasetError, match=r"memory://bucket/pusht/\S+ cannot be .*connection reset"
    ):
        LeRobotDataset(root=memory_root)
    assert [path for path in cache.rglob("*") if path.is_file()] == []


@pytest.fixture
def many_root() -> Iterator[str]:
    """Put a dataset with 40 more data files on a remote file system."""
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{PUSHT}/", "/bucket/many", recursive=True)
    for number in range(40):
        filesystem.pipe_file(f"/bucket/many/data/{number}", bytes(1000))
    yield "memory://bucket/many"
    filesystem.rm("/bucket", recursive=True)


def test_sixteen_files_are_copied_at_a_time(
    many_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the first 16 copies waits until all of them are under way."""
    together, numbers = threading.Barrier(16, timeout=60), itertools.count()
    kind = type(fsspec.filesystem("memory"))
    original = kind.get_file

    def get_file(self: Any, remote: str, *args: Any, **kwargs: Any) -> None:
        if next(numbers) < 16:
            together.wait()
        original(self, remote, *args, **kwargs)

    monkeypatch.setattr(kind, "get_file", get_file)
    copy = source.Source(None, many_root)
    copy.fetch(f"data/{number}" for number in range(40))
    assert len(list((copy.path / "data").iterdir())) == 40


def test_the_first_copy_that_fails_ends_the_others(
    many_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies that have not begun are given up, instead of each failing in its turn."""
    tried, cancelled = [], threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def end(self: ThreadPoolExecutor, **_: Any) -> None:
        cancelled.set()
        shutdown(self)

    def fail(_: Any, remote: str, *__: Any, **___: Any) -> None:
        tried.append(remote)
        assert len(tried) == 1 or cancelled.wait(60)
        msg = "connection reset"
        raise OSError(msg)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", end)
    monkeypatch.setattr(files, "MAX_AT_ONCE", 1)
    monkeypatch.setattr(files, "PAUSES_SECONDS", ())
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", fail)
    with pytest.raises(DatasetError, match="connection reset"):
        source.Source(None, many_root).fetch(f"data/{number}" for number in range(40))
    assert len(tried) <= 2


def test_a_disk_without_room_is_refused_before_anything_is_copied(
    many_root: str, copied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is what is missing, and the message says how much that is."""
    copy = source.Source(None, many_root)
    copy.fetch(["data/0", "data/1"])
    copied.clear()
    sizes = SimpleNamespace(free=37_999)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: sizes)
    wanted = [f"data/{number}" for number in range(40)]
    for now, later in ((wanted, []), (wanted[:20], wanted[20:]), ([], wanted)):
        with pytest.raises(DatasetError, match=r"missing on this machine.*GETIACTION_CACHE"):
            copy.fetch(now, later, check_space=True)
    assert copied == []
    sizes.free = 38_000
    assert len(copy.fetch(wanted[:20], wanted[20:]).absent) == 20
    assert len(copied) == 18
    copy.fetch(wanted)
    assert len(copied) == 38


def test_a_download_that_fails_is_tried_again(
    aloha_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the last attempt's failure is an error, at the sample that needs the file."""
    dataset = LeRobotDataset(root=aloha_root)
    kind = type(fsspec.filesystem("memory"))
    get_file, failures = kind.get_file, iter([True] * 5)

    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        if next(failures, False):
            msg = "connection reset"
            raise OSError(msg)
        get_file(self, *args, **kwargs)

    monkeypatch.setattr(kind, "get_file", fail)
    with pytest.raises(DatasetError, match=r"episode_000002\.mp4 cannot be read .*reset"):
        dataset[134]
    assert_same(dataset[134], LeRobotDataset(root=ALOHA)[134])


def test_a_full_disk_is_an_error_that_says_so(
    aloha_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried again, and the message says how to have more room."""
    dataset = LeRobotDataset(root=aloha_root)
    tried = []

    def fail(*args: Any) -> None:
        tried.append(args)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", fail)
    with pytest.raises(DatasetError, match=r"no room for .*000002\.mp4 .*GETIACTION_CACHE"):
        dataset[134]
    assert len(tried) == 1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EIO])
def test_a_file_system_without_locks_has_the_same_files(
    aloha_root: str, cache: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on Lustre that is mounted without locks; other errors stay what they are."""

    def fail(*_: object) -> None:
        raise OSError(number, "flock")

    monkeypatch.setattr(fcntl, "flock", fail)
    if number == errno.EIO:
        with pytest.raises(DatasetError, match="flock"):
            files_of(aloha_root)
        return
    folder = files_of(aloha_root)
    assert (folder / "meta/info.json").read_bytes() == (ALOHA / "meta/info.json").read_bytes()
    assert not list(cache.rglob("*.part"))


def files_of(url: str) -> Path:
    """Download the metadata of a dataset, and return the folder of the copy."""
    copy = source.Source(None, url)
    copy.fetch_metadata()
    return copy.path


def test_without_locks_two_that_need_a_file_do_not_disturb_each_other(
    memory_root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes a file of its own, and both are whole."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSYS, "flock")

    monkeypatch.setattr(fcntl, "flock", fail)
    together, kind = threading.Barrier(2, timeout=60), type(fsspec.filesystem("memory"))
    get_file, places = kind.get_file, []

    def wait(self: Any, remote: str, local: str, **kwargs: Any) -> None:
        places.append(local)
        together.wait()
        get_file(self, remote, local, **kwargs)

    monkeypatch.setattr(kind, "get_file", wait)
    with ThreadPoolExecutor(2) as threads:
        list(
            threads.map(
                lambda _: files.download(memory_root, tmp_path / "copy", ["meta/info.json"]),
                range(2),
            )
        )
    assert len(set(places)) == 2
    found = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert [path.name for path in found] == ["info.json"]


def test_a_file_of_another_size_than_was_listed_is_not_taken(
    aloha_root: str, cache: Path, copied: list[str]
) -> None:
    """Where storage knows no more; the next start sees from the listing what has changed."""
    dataset, name = LeRobotDataset(root=aloha_root), VIDEOS.format(2)
    changed = rf"{aloha_root} has changed since .*episode_000002\.mp4 is another file.*{cache}"
    fsspec.filesystem("memory").pipe_file(f"/bucket/aloha/{name}", b"short")
    copied.clear()
    with pytest.raises(DatasetError, match=changed):
        dataset[134]
    assert len(copied) == 1  # another attempt would bring the same
    fsspec.filesystem("memory").pipe_file(f"/bucket/aloha/{name}", (ALOHA / name).read_bytes())
    with pytest.raises(DatasetError, match=changed):  # written again at another time
        LeRobotDataModule(root=aloha_root).prepare_data()
    shutil.rmtree(dataset.root)
    assert_same(LeRobotDataset(root=aloha_root)[134], LeRobotDataset(root=ALOHA)[134])


def test_what_is_asked_for_last_is_downloaded_first() -> None:
    """A batch that is needed now does not wait for those that were asked for before."""
    work = behind._Work("memory://bucket", Path(), lambda: None)
    work.put_first(["a", "b", "c"])
    work.put_first(["d", "c"])
    assert list(work._waiting) == ["d", "c", "a", "b"]


def test_what_is_asked_for_at_the_last_moment_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends only after it has closed its input and done what was sent before."""
    name, closed = "data/chunk-000/file-000.parquet", threading.Event()

    may_download, download_file = threading.Event(), files.download_file

    def end(*_: object) -> None:
        found.append((tmp_path / name).is_file())
        raise SystemExit

    def wait(*args: Any) -> None:
        if name in args:
            assert may_download.wait(60)
        download_file(*args)

    def close() -> None:
        work.put_first([name])
        closed.set()

    found: list[bool] = []
    monkeypatch.setattr(behind, "MAX_AT_ONCE", 1)
    monkeypatch.setattr(behind, "download_file", wait)
    monkeypatch.setattr(behind._Work, "end", end)
    work = behind._Work(PUSHT.as_uri(), tmp_path, close)
    work.put_first(["meta/info.json"])
    work.begin()
    assert closed.wait(60)
    threading.Timer(0.2, may_download.set).start()
    with pytest.raises(SystemExit):
        work.finish()
    assert found == [True]


def test_a_long_list_arrives_whole_and_no_list_of_processes_shows_the_url(tmp_path: Path) -> None:
    """A signal may come while it is written, and URLs may have passwords."""
    name, url = "meta/info.json", PUSHT.as_uri()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        behind.download_behind(url, tmp_path, [*["meta/tasks.parquet"] * 100_000, name])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    process = behind._running[url, tmp_path].process
    command = Path(f"/proc/{process.pid}/cmdline").read_text(encoding="utf-8")
    assert process.wait(60) == 0
    assert str(tmp_path) in command
    assert str(PUSHT) not in command
    assert (tmp_path / name).is_file()


def test_what_a_listing_lacks_is_known_before_training(many_root: str, copied: list[str]) -> None:
    """Files that are needed later, but are empty or not there, are not left for later."""
    fsspec.filesystem("memory").pipe_file("/bucket/many/data/empty", b"")
    copy = source.Source(None, many_root)
    assert copy.fetch(["data/0"], ["data/1", "data/empty"]).absent == {"data/1"}
    with pytest.raises(DatasetError, match="memory://bucket/many lacks data/nothing"):
        copy.fetch(["data/2"], ["data/3", "data/nothing"])
    assert "/bucket/many/data/1" not in copied


def test_videos_are_not_copied_when_they_are_not_wanted(memory_root: str, cache: Path) -> None:
    """`download_videos=False` brings rows and metadata only."""
    dataset = LeRobotDataset(root=memory_root, download_videos=False)
    assert len(dataset) == 300
    assert not list(cache.rglob("*.mp4"))
    with pytest.raises(DatasetError, match=r"file-000\.mp4"):
        dataset[0]


def test_only_the_files_of_wanted_episodes_are_copied(aloha_root: str, cache: Path) -> None:
    """A reader of one remote episode brings that episode's files."""
    LeRobotDataset(root=aloha_root, episodes=[2])
    assert [p.name for p in cache.rglob("*.mp4")] == ["episode_000002.mp4"]
    assert [p.name for p in cache.rglob("data/*/*")] == ["episode_000002.parquet"]


def test_a_dataset_recorded_anew_under_its_url_is_not_taken_from_the_cache(
    memory_root: str,
) -> None:
    """The cache is keyed by the dataset's content, not by its URL alone."""
    assert len(LeRobotDataset(root=memory_root)) == 300
    filesystem = fsspec.filesystem("memory")
    filesystem.rm("/bucket/pusht", recursive=True)
    filesystem.put(f"{DATA / 'h264_v30'}/", "/bucket/pusht", recursive=True)
    assert len(LeRobotDataset(root=memory_root)) == 61


def test_a_copy_that_was_cut_off_is_completed(
    memory_root: str, cache: Path, copied: list[str]
) -> None:
    """Metadata files that are absent from the cache, and only they, are brought again."""
    LeRobotDataset(root=memory_root)
    (tasks,) = cache.rglob("tasks.parquet")
    tasks.unlink()
    copied.clear()
    assert LeRobotDataset(root=memory_root)[0]["task"].startswith("Push")
    assert copied == ["/bucket/pusht/meta/tasks.parquet"]
