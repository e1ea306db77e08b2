"""A process apart, in which a spec is built and tried without touching this one or its files.

It is forked after torch was imported, so nothing is imported twice. Whatever the user's classes do
there (seed generators, take memory, crash, hang) ends with that process. It writes to a directory
of its own only, and has no network: see :mod:`getiaction_launch.checking.sandbox`.
"""

import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from getiaction_launch.checking.finding import Finding

_CHUNK_BYTES = 1 << 16
_MARGIN_SECONDS = 5
_KILLED = {signal.SIGKILL: "was killed, probably since memory ran out"}


class Apart:
    """A forked process that sends findings to the one that has forked it.

    Args:
        limit_seconds: How long the process may live; None for any time.

    Attributes:
        is_inside: Whether this is the forked process.
        scratch: Directory to which the forked process may write; removed in the end.
    """

    def __init__(self, limit_seconds: float | None) -> None:
        self.is_inside = False
        self.scratch = Path()
        self._limit_seconds = limit_seconds
        self._pipe: int | None = None
        self._pid = 0

    def fork(self) -> Iterator[Finding]:
        """Fork; yield the other process's findings here, and nothing inside.

        Returns inside at once, with :attr:`is_inside` set; the caller then does its work and calls
        :meth:`leave`. In this process it returns once the other one has ended.

        Raises:
            TimeoutError: If the time is over.
            ChildProcessError: If the process ended early; the message says how.
        """
        self.scratch = Path(tempfile.mkdtemp(prefix="getiaction-check-")).resolve()
        receiver, sender = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
            self._pid = os.fork()
        if self._pid == 0:
            self.is_inside = True
            os.close(receiver)
            self._pipe = sender
            self._quieten()
            return
        os.close(sender)
        try:
            yield from self._receive(receiver)
        finally:
            os.close(receiver)
            self._end()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def send(self, finding: Finding) -> None:
        """Send a finding out of the forked process."""
        if self._pipe is not None:
            os.write(self._pipe, json.dumps(asdict(finding)).encode() + b"\n")

    def leave(self) -> None:
        """End the forked process at once, without running what Python does at its exit."""
        if self._pipe is not None:
            os.write(self._pipe, b"null\n")
        os._exit(0)

    def _receive(self, receiver: int) -> Iterator[Finding]:
        deadline = time.monotonic() + (self._limit_seconds or float("inf"))
        rest = b""
        while True:
            left = deadline - time.monotonic()
            timeout = None if left == float("inf") else max(0, left)
            if not select.select([receiver], [], [], timeout)[0]:
                raise TimeoutError
            chunk = os.read(receiver, _CHUNK_BYTES)
            if not chunk:
                raise ChildProcessError(self._how_it_ended())
            *lines, rest = (rest + chunk).split(b"\n")
            for content in map(json.loads, lines):
                if content is None:
                    return
                yield Finding(**content)

    def _how_it_ended(self) -> str:
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        code = os.waitstatus_to_exitcode(status)
        if code >= 0:
            return f"has exited with code {code}"
        number = signal.Signals(-code)
        return _KILLED.get(number, f"has crashed with {number.name}")

    def _end(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def _quieten(self) -> None:
        """Keep what is printed from the terminal, and Ctrl-C for the other process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._limit_seconds is not None:
            # In case that the other process is killed.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(int(self._limit_seconds) + _MARGIN_SECONDS)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nothing, number)
        # They stay open until the process ends.
        sys.stdout = sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
