"""Files that one of several callers creates, on a store that would overwrite them."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from getiaction_launch.storage.claim import create
from getiaction_launch.storage.paths import children, file_system, open_path, remove


def test_file_is_created_once_until_it_is_removed(overwriting_bucket):
    """A second caller is refused; once the file is removed, it can be created again."""
    path = open_path(f"{overwriting_bucket}/{time.monotonic_ns()}/job_after_1")
    assert create(path)
    assert not create(path)
    remove(path)
    assert create(path)
    assert [child.name for child in children(path.parent)] == [path.name]


def test_caller_that_stalls_before_its_write_does_not_win_too(overwriting_bucket, monkeypatch):
    """A caller that saw no file, and writes only after another one has won, is refused."""
    path = open_path(f"{overwriting_bucket}/{time.monotonic_ns()}/claim")
    fs, _ = file_system(path)
    exists, has_looked, release = fs.exists, threading.Event(), threading.Event()

    def stall(key: str) -> bool:
        found = exists(key)
        if not has_looked.is_set():
            has_looked.set()
            release.wait(30)
        return found

    with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
        patch.setattr(fs, "exists", stall)
        late = pool.submit(create, path)
        assert has_looked.wait(30)
        assert create(path)
        release.set()
        assert not late.result()


def test_one_of_many_callers_creates_a_file(overwriting_bucket):
    """Exactly one of 16 concurrent callers succeeds."""
    path = open_path(f"{overwriting_bucket}/{time.monotonic_ns()}/claim")
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda _: create(path), range(16))) == 1
