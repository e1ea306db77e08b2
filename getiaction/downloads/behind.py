"""A process that downloads files behind training, in an order that may change.

It is a process, because threads would hold up the training in theirs: downloads keep Python busy,
and loader processes that are forked in the middle of them could inherit locks that nobody releases.
It reads names of files from stdin, one JSON list in each line, and ends when all files are there or
when its parent ends.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from getiaction.downloads.files import (
    MAX_AT_ONCE,
    DownloadError,
    download_file,
    is_final,
    is_full,
    open_url,
    remove_unfinished,
)

_running: dict[tuple[str, Path], "subprocess.Popen[bytes]"] = {}


def download_behind(url: str, folder: Path, names: Sequence[str]) -> None:
    """Have files downloaded in the background, before all that were asked for earlier.

    Files that are there are passed over. A process that needs one before it is there downloads it
    or waits for it by `getiaction.downloads.files.download`.

    Args:
        url: URL that fsspec supports, of the folder with the files.
        folder: Local folder to download into.
        names: Paths of the files, relative to both, in the order in which they are needed.
    """
    line = json.dumps(list(names)).encode() + b"\n"
    for _ in range(2):
        process = _running.get((url, folder))
        if process is None or process.poll() is not None:
            process = _running[url, folder] = _start(url, folder)
        try:
            process.stdin.write(line)  # type: ignore[union-attr] # it is a pipe
        except BrokenPipeError:  # it had just downloaded its last file
            process.wait()
        else:
            return


def _start(url: str, folder: Path) -> "subprocess.Popen[bytes]":
    # With the same paths as here, it finds the same packages.
    code = (
        f"import sys; sys.path[:] = {[*map(str, sys.path)]!r}; from {__name__} import main; main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(os.getpid()), url, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        bufsize=0,
    )


class _Work:
    """The files that are waited for, and the threads that download them.

    Args:
        url: URL that fsspec supports, of the folder with the files.
        folder: Local folder to download into.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder
        self._waiting: deque[str] = deque()
        self._num_active = 0
        self._changed = threading.Condition()
        self._has_warned = False

    def put_first(self, names: Iterable[str]) -> None:
        """Download these files before those that wait already."""
        with self._changed:
            self._waiting = deque(dict.fromkeys((*names, *self._waiting)))
            self._changed.notify_all()

    def begin(self) -> None:
        """Start the threads."""
        try:
            filesystem, root = open_url(self._url)
        except Exception as error:  # noqa: BLE001 - each backend has its own exceptions
            self._warn(f"{self._url} cannot be read", error)
            self.end(1)
        for _ in range(MAX_AT_ONCE):
            threading.Thread(target=self._run, args=(filesystem, root), daemon=True).start()

    def end(self, code: int) -> NoReturn:
        """End the process, and leave no part of a file."""
        remove_unfinished()
        os._exit(code)

    def _run(self, filesystem: Any, root: str) -> NoReturn:  # noqa: ANN401 - fsspec ships no types
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                name = self._waiting.popleft()
                self._num_active += 1
            error = None
            try:
                download_file(filesystem, root, self._folder, name)
            except DownloadError as failure:
                error = failure.__cause__
                self._warn(f"{self._url}/{name} could not be downloaded in the background", error)
            if is_full(error):
                self.end(1)
            with self._changed:
                self._num_active -= 1
                if error is not None and not is_final(error):
                    self._waiting.append(name)
                is_done = not self._waiting and not self._num_active
            if is_done:
                self.end(0)

    def _warn(self, problem: str, error: BaseException | None) -> None:
        """Warn once: a sample that needs a file tries again, and raises the error if it must."""
        with self._changed:
            is_first, self._has_warned = not self._has_warned, True
        if is_first:
            text = f"warning: {problem} ({type(error).__name__}: {error})\n"
            sys.stderr.write(text)
            sys.stderr.flush()


def _watch(parent: int, work: _Work) -> NoReturn:
    """End with the parent: its loader processes may keep stdin open for seconds after it."""
    while os.getppid() == parent:
        time.sleep(1)
    work.end(0)


def main() -> None:
    """Be the process."""
    parent, url, folder = sys.argv[1:]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the parent decides when to end
    work = _Work(url, Path(folder))
    threading.Thread(target=_watch, args=(int(parent), work), daemon=True).start()
    threading.Thread(target=work.begin, daemon=True).start()
    for line in sys.stdin.buffer:
        work.put_first(json.loads(line))
    work.end(0)
