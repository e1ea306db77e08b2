"""Lets one process do work whose result is in the cache, while others wait for that result."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from lightning.pytorch.utilities import rank_zero_info

# Waiting is mentioned after the first seconds, and given up after the others.
UNTIL_SAID_SECONDS, UNTIL_GIVEN_UP_SECONDS, CHECK_SECONDS = 5.0, 1800.0, 10.0
LEFT_FOR_SECONDS = 24 * 3600.0


@contextmanager
def waiting_for_others(result: Path, work: str, is_there: Callable[[], bool]) -> Iterator[None]:
    """Let one process make a result, which may be there when the others' turn comes.

    Where files cannot be locked, each makes one of its own. So do those that have waited for too
    long: filelock makes do with a file that exists where locks do not, and a node that was lost
    leaves it for ever.

    Args:
        result: File or folder that is made; the lock is a file beside it.
        work: What is being done meanwhile, for a message.
        is_there: Returns whether the result can be used.
    """
    lock = FileLock(f"{result}.lock")
    try:
        has_lock = _wait_for(lock, work, is_there)
    except (OSError, NotImplementedError):
        has_lock = False
    try:
        yield
    finally:
        if has_lock:
            _release(lock)
            _remove_left(result.parent)


def _release(lock: FileLock) -> None:
    """Release a lock, and leave no file.

    The file goes while it is locked, so who has opened it meanwhile sees that it is gone and opens
    another. A release of filelock that does not look lets two do the same work, which harms nobody.
    """
    with suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()


def _remove_left(folder: Path) -> None:
    """Remove the lock files of processes that were killed, and of earlier versions."""
    oldest = time.time() - LEFT_FOR_SECONDS
    for file in folder.glob("*.lock"):
        with suppress(OSError, NotImplementedError, Timeout):  # another process has or removes it
            if file.stat().st_mtime < oldest:
                left = FileLock(file)
                left.acquire(timeout=0)
                _release(left)


def _wait_for(lock: FileLock, work: str, is_there: Callable[[], bool]) -> bool:
    """Acquire a lock; return False if the result appears before, or after half an hour."""
    give_up = time.monotonic() + UNTIL_GIVEN_UP_SECONDS
    with suppress(Timeout):
        lock.acquire(timeout=UNTIL_SAID_SECONDS)
        return True
    rank_zero_info(
        f"Waiting for another process that {work}, for up to {UNTIL_GIVEN_UP_SECONDS / 60:.0f} "
        f"minutes. If none does, remove {lock.lock_file}"
    )
    while not is_there() and time.monotonic() < give_up:
        with suppress(Timeout):
            lock.acquire(timeout=CHECK_SECONDS)
            return True
    return False
