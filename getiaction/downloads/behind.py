"""A process that downloads files behind training, in an order that may change.

It is a process, because threads would hold up the training in theirs: downloads keep Python busy,
and loader processes that are forked in the middle of them could inherit locks that nobody releases.
It reads lines of JSON from stdin, which is a socket: the URL, which may have a password that should
not be seen in a list of processes, and then lists of names of files. It ends when its parent ends
or when all files are there; before the latter, it closes the socket for new lines, and reads those
that were sent before.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from getiaction.downloads.files import (
    MAX_AT_ONCE,
    DownloadError,
    download_file,
    is_final,
    is_full,
    open_url,
    remove_unfinished,
)
from getiaction.downloads.secrets import without_secrets


class _Running(NamedTuple):
    process: "subprocess.Popen[bytes]"
    stdin: socket.socket


_running: dict[tuple[str, Path], _Running] = {}


def download_behind(url: str, folder: Path, names: Sequence[str]) -> None:
    """Have files downloaded in the background, before all that were asked for earlier.

    Files that are there are passed over. A process that needs one before it is there downloads it
    or waits for it by `getiaction.downloads.files.download`.

    Args:
        url: URL that fsspec supports, of the folder with the files.
        folder: Local folder to download into.
        names: Paths of the files, relative to both, in the order in which they are needed.
    """
    first, line = (
        json.dumps(value, allow_nan=False).encode() + b"\n" for value in (url, list(names))
    )
    for _ in range(2):
        running = _running.get((url, folder))
        if running is None or running.process.poll() is not None:
            running, lines = _start(folder), first + line
            _running[url, folder] = running
        else:
            lines = line
        try:
            running.stdin.sendall(lines)
        except ConnectionError:  # it had just downloaded its last file
            del _running[url, folder]
            running.stdin.close()
        else:
            return


def _start(folder: Path) -> _Running:
    # With the same paths as here, it finds the same packages.
    code = (
        f"import sys; sys.path[:] = {[*map(str, sys.path)]!r}; from {__name__} import main; main()"
    )
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(os.getpid()), str(folder)],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
        )
    return _Running(process, ours)


class _Work:
    """The files that are waited for, and the threads that download them.

    Args:
        url: URL that fsspec supports, of the folder with the files.
        folder: Local folder to download into.
        close: Called when all files are there, before `finish`, so that no more are asked for.
    """

    def __init__(self, url: str, folder: Path, close: Callable[[], object]) -> None:
        self._url, self._folder, self._close = url, folder, close
        self._is_closing = False
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

    def finish(self) -> NoReturn:
        """End the process when nobody can ask for more: at once, unless all files were there."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closing or self._is_done)
        self.end(0)

    @property
    def _is_done(self) -> bool:
        return not self._waiting and not self._num_active

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
                is_over = self._is_done and not self._is_closing
                self._is_closing |= is_over
                self._changed.notify_all()
            if is_over:
                self._close()

    def _warn(self, problem: str, error: BaseException | None) -> None:
        """Warn once: a sample that needs a file tries again, and raises the error if it must."""
        with self._changed:
            is_first, self._has_warned = not self._has_warned, True
        if is_first:
            text = f"warning: {problem} ({type(error).__name__}: {error})\n"
            sys.stderr.write(without_secrets(text, self._url))
            sys.stderr.flush()


def _watch(parent: int, work: _Work) -> NoReturn:
    """End with the parent: its loader processes may keep stdin open for seconds after it."""
    while os.getppid() == parent:
        time.sleep(1)
    work.end(0)


def main() -> None:
    """Be the process."""
    parent, folder = sys.argv[1:]
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the parent decides when to end
    connection = socket.socket(fileno=sys.stdin.fileno())
    lines = connection.makefile("rb")
    first = lines.readline()
    if not first.endswith(b"\n"):  # the parent has ended
        return
    work = _Work(json.loads(first), Path(folder), lambda: connection.shutdown(socket.SHUT_RD))
    threading.Thread(target=_watch, args=(int(parent), work), daemon=True).start()
    threading.Thread(target=work.begin, daemon=True).start()
    for line in lines:
        # A line that was cut off has lost its sender, or is sent again to another process.
        with contextlib.suppress(ValueError):
            work.put_first(json.loads(line))
    work.finish()
