"""A process apart, in which a spec is built and tried without touching this one or its files.

It is forked after torch was imported, so nothing is imported twice. Whatever the user's classes do
there (seed generators, take memory, crash, hang) ends with that process. It writes to a directory
of its own only (:mod:`getiaction_launch.checking.apart.layer` has it keep there what is written to
the working directory), and has no network: see :mod:`getiaction_launch.checking.apart.sandbox`.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.checking.apart.abort import await_words, mismatch_of
from getiaction_launch.checking.apart.clock import MOST, Clock
from getiaction_launch.checking.finding import Finding
from getiaction_launch.storage.strict_json import dumps
from getiaction_launch.system.child import adopt_orphans, die_with

if TYPE_CHECKING:
    import psutil

LIMIT_SECONDS = 60
"""How long a trial may take without being asked for."""
_CHUNK_BYTES = 1 << 16
_MARGIN_SECONDS = 5
_LOOK_SECONDS = 0.2
_EMPTY_LOOKS = 2
"""How often in turn no process must be found before none is there."""
_MEMORY_SHARE = 0.5
"""How much of the memory that is free a trial may take, as others work on this machine too."""
_DISK_SHARE = 0.5
"""How much of the disk that is free a trial may fill."""
_KILLED = {signal.SIGKILL: "was killed, probably since memory ran out"}


class Apart:
    """A forked process that sends findings to the one that has forked it.

    Args:
        limit_seconds: How long the process may live, without waiting for a CPU; None for any time,
            and any memory.

    Attributes:
        is_inside: Whether this is the forked process.
        scratch: Directory to which the forked process may write; removed in the end.
    """

    def __init__(self, limit_seconds: float | None) -> None:
        self.is_inside = False
        self.scratch = Path()
        self._limit_seconds = limit_seconds
        self._known: set[str] = set()
        self._is_refused = False
        self._pipe: int | None = None
        self._take: Callable[[Finding], None] | None = None
        self._pid = 0

    def fork(self) -> Iterator[Finding]:
        """Fork; yield the other process's findings here, and nothing inside.

        Returns inside at once, with :attr:`is_inside` set; the caller then does its work and calls
        :meth:`leave`. In this process it returns once the other one has ended.

        Raises:
            TimeoutError: If the time is over.
            ChildProcessError: If the process ended early, could not be started, or took half of the
                memory that was free; the message says how or why.
        """
        receiver = self._start()
        if self.is_inside:
            return
        try:
            ended: ChildProcessError | None = None
            try:
                yield from self._receive(receiver)
            except ChildProcessError as error:
                ended = error
            found = mismatch_of(self.scratch) if ended or not self._is_refused else None
            if ended and found is None:
                raise ended
            is_news = found and (found.is_refusal or found.check not in self._known)
            if found and is_news and not self._is_refused:
                yield found
        finally:
            os.close(receiver)
            self._end()
            _remove(self.scratch)

    def is_known(self, check: str) -> bool:
        """Return whether the forked process has said what a check has come to."""
        return check in self._known

    def _start(self) -> int:
        """Fork, and return the end of the pipe from which this process receives."""
        ends: list[int] = []
        try:
            self.scratch = Path(tempfile.mkdtemp(prefix="getiaction-check-")).resolve()
            ends.extend(os.pipe())
            sys.stdout.flush()
            sys.stderr.flush()
            parent_pid = os.getpid()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
                self._pid = os.fork()
        except OSError as error:
            for end in ends:
                os.close(end)
            if self.scratch != Path():
                shutil.rmtree(self.scratch, ignore_errors=True)
            message = f"cannot be started: {error.strerror or error}"
            raise ChildProcessError(message) from error
        receiver, sender = ends
        if self._pid == 0:
            self.is_inside = True
            die_with(parent_pid)
            os.setsid()  # whatever it starts ends with it
            adopt_orphans()  # also what detaches itself
            os.close(receiver)
            self._pipe = sender
            self._quieten()
        else:
            os.close(sender)
        return receiver

    def hand_over(self, take: Callable[[Finding], None]) -> None:
        """Have a copy of the forked process give its findings to a function, and write nothing.

        Args:
            take: The function that takes them.
        """
        if self._pipe is not None:
            os.close(self._pipe)
        self._pipe, self._take = None, take
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115

    def send(self, finding: Finding) -> None:
        """Send a finding out of the forked process."""
        if self._take is not None:
            self._take(finding)
        if self._pipe is not None:
            os.write(self._pipe, dumps(asdict(finding)).encode() + b"\n")

    def hear(self) -> Callable[[], str]:
        """Keep what is written to stderr from now on; returns a function that returns it."""
        path = self.scratch / "stderr.txt"
        file = path.open("w+", encoding="utf-8", buffering=1)
        sys.stderr = file
        return lambda: path.read_text(encoding="utf-8", errors="replace")

    def leave(self) -> None:
        """Have the other process end this one, with all that it has started."""
        if self._pipe is not None:
            os.write(self._pipe, b"null\n")
            while True:
                time.sleep(60)
        os._exit(0)

    def _receive(self, receiver: int) -> Iterator[Finding]:
        import psutil  # slow to import

        process, most_bytes = psutil.Process(self._pid), float("inf")
        clock = Clock(self._limit_seconds, lambda: (each.pid for each in _family_of(process)))
        if self._limit_seconds is not None:
            most_bytes = _MEMORY_SHARE * psutil.virtual_memory().available
        least_free_bytes = (1 - _DISK_SHARE) * shutil.disk_usage(self.scratch).free
        rest = b""
        while True:
            # Looked at before the pipe: all that an ended process has sent is then in there.
            is_over = self._is_over()
            if not is_over:
                self._refuse_more_than(process, most_bytes, least_free_bytes)
            left = clock.left_seconds()
            timeout = 0 if is_over else min(_LOOK_SECONDS, max(0, left))
            if not select.select([receiver], [], [], timeout)[0]:
                if is_over:  # a process that it has started may keep the pipe open
                    raise ChildProcessError(self._how_it_ended())
                if left <= 0:
                    raise TimeoutError
                continue
            chunk = os.read(receiver, _CHUNK_BYTES)
            if not chunk:
                raise ChildProcessError(self._how_it_ended())
            *lines, rest = (rest + chunk).split(b"\n")
            for content in map(json.loads, lines):
                if content is None:
                    return
                found = Finding(**content)
                self._known.add(found.check)
                self._is_refused |= found.is_refusal
                yield found

    def _refuse_more_than(
        self, process: "psutil.Process", most_bytes: float, least_free_bytes: float
    ) -> None:
        if most_bytes < float("inf") and _memory_of(process) > most_bytes:
            most = f"more than {most_bytes / 1e9:.1f} GB of memory, half of what is free here"
            raise ChildProcessError(f"needs {most}; --deep gives it all")
        if shutil.disk_usage(self.scratch).free < least_free_bytes:
            raise ChildProcessError(f"has written half of what is free in {self.scratch.parent}")

    def _is_over(self) -> bool:
        """Whether the process has ended; it is not reaped, so that its group's number stays its."""
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _how_it_ended(self) -> str:
        await_words(self.scratch)  # what is still there ends with it
        code = os.waitstatus_to_exitcode(self._end(is_killed=False))
        if code >= 0:
            return f"has exited with code {code}"
        number = signal.Signals(-code)
        return _KILLED.get(number, f"has crashed with {number.name}")

    def _end(self, *, is_killed: bool = True) -> int:
        """End the process with all that it has started, and return its status."""
        if not self._pid:
            return 0
        if not is_killed:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        self._end_started()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)  # none yet, if it was ended before it led a group
        os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status

    def _end_started(self) -> None:
        """End what the process has started, also what leads a group of its own.

        The process stands still meanwhile, and adopts what detaches itself in this moment. One look
        at all processes may miss that, as it takes a while.
        """
        import psutil  # slow to import

        deadline, empty_looks = time.monotonic() + _MARGIN_SECONDS, 0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self._pid)
            process.suspend()
            while empty_looks < _EMPTY_LOOKS and time.monotonic() < deadline:
                started = [each for each in process.children(recursive=True) if _is_alive(each)]
                for each in started:
                    with contextlib.suppress(psutil.Error):
                        each.kill()
                empty_looks = 0 if started else empty_looks + 1

    def _quieten(self) -> None:
        """Keep what is printed from the terminal, and Ctrl-C for the other process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._limit_seconds is not None:
            # In case that the other process is killed.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(MOST * self._limit_seconds) + _MARGIN_SECONDS)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        # They stay open until the process ends.
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def _remove(directory: Path) -> None:
    """Remove a directory, also what the kernel or the user's code has closed to everybody."""
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        _open_up(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _open_up(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.chmod(0o700)
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                _open_up(path)


def _is_alive(process: "psutil.Process") -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _family_of(process: "psutil.Process") -> "list[psutil.Process]":
    """Return a process and all that it has started."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return [process]


def _memory_of(process: "psutil.Process") -> int:
    """Return the memory of a process and of all that it has started, in bytes."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        for each in _family_of(process):
            total += each.memory_info().rss
    return total
