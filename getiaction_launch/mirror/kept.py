"""Kept checkpoints that arrive behind the training, when a run continues on another machine.

Training needs one checkpoint to resume from. The others that the user's ``ModelCheckpoint`` has
kept may be many times as much: they are downloaded while training runs already, one after the
other. Until a file is there, the launcher's part of the worker treats it as one that exists, and
loading it through Lightning waits for it.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from getiaction_launch.errors import RecordError, StorageError
from getiaction_launch.mirror.ledger import CHECKPOINTS, Ledger, Whole, lane_of, locked
from getiaction_launch.mirror.removals import read_removals
from getiaction_launch.mirror.transfer import download, say
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import kind_of, read_json, remove, write_json

RECORD = ".arriving.json"
ARRIVING = ".arriving.partial"
"""Not beside the file's place, where workers remove what looks like this."""
POLL_SECONDS = 0.2
WAIT_SECONDS = 1200.0
"""How long a worker waits for files before it does without: less than a collective may take."""
LOCK_SECONDS = 5.0
MAX_PAUSE_SECONDS = 60.0
MAX_FAILURES = 8
"""How often the download of a file may fail; with the pauses between, that takes some minutes."""


def can_arrive_later(path: str) -> bool:
    """Whether a file is one that only Lightning's callbacks need, and not at once.

    Args:
        path: The file's path, relative to the run's directory.
    """
    place = PurePosixPath(path)
    is_alone = not any(parent.suffix == ".ckpt" for parent in place.parents)
    return lane_of(path) == CHECKPOINTS and place.suffix == ".ckpt" and is_alone


def announce(directory: Path, paths: Iterable[str]) -> None:
    """Write down which files are still to arrive; call it before the workers start.

    Args:
        directory: The run's staging directory.
        paths: Their paths, relative to the directory; none if all are there.
    """
    if names := sorted(paths):
        write_json(directory / RECORD, {"paths": names}, durable=False)
    else:
        remove(directory / RECORD)


def still_to_arrive(directory: Path) -> set[str]:
    """Return the files that are not there yet, and that nobody has removed meanwhile.

    Args:
        directory: The run's directory, as this machine's processes see it.
    """
    try:
        record = read_json(directory / RECORD) or {}
    except RecordError:
        return set()
    names = record.get("paths")
    awaited = {name for name in names if isinstance(name, str)} if isinstance(names, list) else ()
    missing = {name for name in awaited if not os.path.lexists(directory / name)}
    return missing - set(read_removals(directory, 0)[0]) if missing else missing


def is_to_arrive(directory: Path, path: str | Path) -> bool:
    """Whether a file is not there yet, but will be.

    Args:
        directory: The run's directory, as this machine's processes see it.
        path: Path of the file, absolute or relative.
    """
    return os.path.relpath(path, directory) in still_to_arrive(directory)


def await_kept(directory: Path, path: str | Path | None = None) -> None:
    """Wait until files have arrived, up to :data:`WAIT_SECONDS`.

    Args:
        directory: The run's directory, as this machine's processes see it.
        path: The path of the file to wait for; None for all.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline and (
        is_to_arrive(directory, path) if path else still_to_arrive(directory)
    ):
        time.sleep(POLL_SECONDS)


class Arrivals:
    """Downloads kept checkpoints in a thread, while workers train.

    Args:
        run: The run; its directory is a URL.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._local = run, run.local.directory
        self._closing, self._placing = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._download_all, name="kept", daemon=True)

    def start(self) -> None:
        """Start to download, if anything is to arrive."""
        if still_to_arrive(self._local):
            self._thread.start()

    def close(self) -> None:
        """End; what has not arrived is downloaded by the next attempt that needs it."""
        with self._placing:
            self._closing.set()
            announce(self._local, ())

    def _download_all(self) -> None:
        failures, given_up = Counter[str](), set[str]()
        while (missing := self._announce_rest(given_up)) and not self._closing.is_set():
            # One that fails does not keep the others from being downloaded.
            path = min(missing, key=failures.__getitem__)
            if self._is_downloaded(path):
                continue
            failures[path] += 1
            if failures[path] >= MAX_FAILURES or self._is_gone(path):
                say(f"{path} is not downloaded, and nothing waits for it any more")
                given_up.add(path)
            else:
                self._closing.wait(min(2.0 ** failures[path], MAX_PAUSE_SECONDS))

    def _announce_rest(self, given_up: set[str]) -> list[str]:
        with self._placing:
            missing = sorted(still_to_arrive(self._local) - given_up)
            # What has been here once does not arrive again, whatever becomes of it.
            announce(self._local, missing)
        return missing

    def _is_downloaded(self, path: str) -> bool:
        try:
            self._download(path)
        except (StorageError, OSError) as error:
            say(f"{path} has not been downloaded yet, and training does not wait: {error}")
            return False
        return True

    def _is_gone(self, path: str) -> bool:
        try:
            return kind_of(self._run.directory / path) is None
        except (StorageError, OSError):
            return False

    def _download(self, path: str) -> None:
        arriving, target = self._local / ARRIVING, self._local / path
        remove(arriving)
        download(self._run.directory / path, arriving)
        is_placed = False
        while not is_placed and not self._closing.is_set():
            # Under the lock: the mirror must not see a file that its ledger does not have.
            with locked(self._local, CHECKPOINTS, LOCK_SECONDS) as is_mine, self._placing:
                if not is_mine or self._closing.is_set():
                    continue
                is_placed = True
                if path in still_to_arrive(self._local):
                    ledger = Ledger(self._local, CHECKPOINTS)
                    ledger.record(path, Whole.of(arriving.stat()))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _place(arriving, target)
        with contextlib.suppress(OSError):
            remove(arriving)


def _place(arriving: Path, target: Path) -> None:
    """Give a file its name, unless a worker has just saved another one under it."""
    try:
        os.link(arriving, target)  # a rename would replace that one
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not os.path.lexists(target):
            arriving.replace(target)
