"""Brings what workers write under a run's staging directory to the run's URL, while they train.

Lightning, TensorBoard and whatever else a spec or script uses only ever see a local directory, so
none of them waits for a network, and none needs to know how an object store differs from a disk.
The mirror belongs to the node's process, which outlives a worker that is killed.

Two threads share the work, so that no log waits for a checkpoint. Nodes that share a machine share
the directory too; whoever holds a thread's lock file works for all. What has been brought is
written down beside the files: a mirror that was killed is gone on with by the next one.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.ledger import POLL_SECONDS, Ledger, walk
from getiaction_launch.mirror.transfer import hash_of, upload
from getiaction_launch.run.checkpoint import KEPT, all_committed, files_of, newest
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import (
    children,
    describe,
    file_system,
    open_path,
    reaching,
    read_json,
    remove,
    write_json,
)
from getiaction_launch.storage.segment import cut, only_grows, segment_name
from getiaction_launch.system.stop import StopRequest

RECORD_SECONDS = 2.0
STABLE_SECONDS = 2.0
MAX_PAUSE_SECONDS = 60.0
READ_SECONDS = 60.0
"""How long a store may be silent: it may have to put a large file together."""
CHECKPOINTS = "launch/checkpoints"
_OWN = ("launch/plan.json", "launch/progress.json", "launch/resume.lock", CHECKPOINTS)


class Mirror:
    """Keeps a run's URL up to date with its staging directory.

    Args:
        run: Whose directory is a URL.
        period_seconds: Longest time until what was written is brought; checkpoints go at once.
        limit_seconds: How long that may fail until the workers are stopped.
        stop: Stops the node's workers.
    """

    def __init__(
        self,
        run: Run,
        *,
        period_seconds: float = 30,
        limit_seconds: float = 1800,
        stop: StopRequest | None = None,
    ) -> None:
        errors: dict[str, str] = {}
        self._lanes = [
            lane(run, period_seconds, limit_seconds, stop, errors)
            for lane in (_Files, _Checkpoints)
        ]

    def start(self) -> None:
        """Begin; what an earlier mirror has left goes first."""
        for lane in self._lanes:
            lane.thread.start()

    def close(self, limit_seconds: float) -> None:
        """Bring everything, now that nobody writes any more.

        Raises:
            StorageError: If that does not succeed within the limit, with the last reason.
        """
        deadline = time.monotonic() + limit_seconds
        for lane in self._lanes:
            lane.closing.set()
        for lane in self._lanes:
            lane.finish(deadline)


class _Lane:
    """One thread of the mirror; ``errors`` are those of all of them, by their names."""

    name: str

    def __init__(
        self,
        run: Run,
        period_seconds: float,
        limit_seconds: float,
        stop: StopRequest | None,
        errors: dict[str, str],
    ) -> None:
        self.run, self.local = Run(open_path(run.directory, read_seconds=READ_SECONDS)), run.local
        self._period_seconds, self._limit_seconds, self._stop = period_seconds, limit_seconds, stop
        self.errors = errors
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self._watch, name=f"mirror {self.name}", daemon=True)

    def sync(self, *, is_last: bool) -> None:
        """Bring everything that is new."""
        raise NotImplementedError

    def look(self) -> None:
        """Bring what cannot wait for the period."""
        raise NotImplementedError

    def _watch(self) -> None:
        self._sync_at = time.monotonic()
        failures, failing_since = 0, 0.0
        while not self.closing.wait(POLL_SECONDS):
            if error := self._turn():
                now = time.monotonic()
                failing_since = failing_since if failures else now
                failures += 1
                self.errors[self.name] = describe(error)
                self._tell(error, now - failing_since)
                if now - failing_since > self._limit_seconds and self._stop:
                    self._say("given up: training is stopped")
                    self._stop.signal = self._stop.signal or signal.SIGTERM
                self.closing.wait(min(2.0**failures, MAX_PAUSE_SECONDS))
            else:
                failures = 0
                self.errors.pop(self.name, None)

    def _turn(self) -> Exception | None:
        try:
            with Ledger.locked(self.local.directory, self.name, 0) as is_mine:
                if is_mine and time.monotonic() >= self._sync_at:
                    self.sync(is_last=False)
                    self._sync_at = time.monotonic() + self._period_seconds
                elif is_mine:
                    self.look()
        except Exception as error:  # noqa: BLE001 - told, and tried again
            return error
        return None

    def finish(self, deadline: float) -> None:
        """Sync for the last time, once the thread has ended.

        Raises:
            StorageError: If that does not succeed before the deadline.
        """
        if self.thread.ident is not None:
            self.thread.join(max(0, deadline - time.monotonic()))
        error, failures = self._sync_last(deadline), 0
        while error:
            failures += 1
            self._tell(error, 0)
            pause_seconds = min(2.0**failures, MAX_PAUSE_SECONDS)
            if time.monotonic() + pause_seconds >= deadline:
                raise StorageError(
                    f"{self.run.directory} did not take all files: {describe(error)}.",
                    f"They are in {self.local.directory} on this machine.",
                ) from error
            time.sleep(pause_seconds)
            error = self._sync_last(deadline)

    def _sync_last(self, deadline: float) -> Exception | None:
        limit_seconds = max(0, deadline - time.monotonic())
        try:
            with Ledger.locked(self.local.directory, self.name, limit_seconds) as is_mine:
                if not is_mine:
                    return TimeoutError("an upload has not ended")
                self.sync(is_last=True)
        except Exception as error:  # noqa: BLE001 - as above
            return error
        return None

    def _tell(self, error: Exception, seconds: float) -> None:
        since = f" for {seconds:.0f} s" if seconds else ""
        self._say(f"{self.name} could not be uploaded{since}: {describe(error)}")

    def _say(self, words: str) -> None:
        sys.stderr.write(f"getiaction-launch: {words}\n")
        sys.stderr.flush()

    def is_mine(self, path: str) -> bool:
        """Whether this lane brings the file at this relative path."""
        raise NotImplementedError

    def sync_files(self, *, is_last: bool) -> None:
        """Bring every file of this lane that is new; take away what was removed here."""
        ledger = Ledger(self.local.directory, self.name)
        found = {path: stat for path, stat in walk(self.local.directory) if self.is_mine(path)}
        # What only grows goes first: it is small, and people watch it.
        for path in sorted(found, key=lambda path: (not only_grows(path), path)):
            with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                if only_grows(path):
                    self._extend(ledger, path, found[path].st_size)
                else:
                    self._replace(ledger, path, found[path], is_last=is_last)
        for path in ledger.files.keys() - found.keys():
            for number in range(ledger.files[path].get("segments", 1)):
                remove(self.run.directory / segment_name(path, number))
            del ledger.files[path]
        ledger.write()

    def _extend(self, ledger: Ledger, path: str, size_bytes: int) -> None:
        entry = ledger.files.setdefault(path, {"segments": 0, "start": 0, "end": 0})
        file = self.local.directory / path
        while True:
            if entry.get("is_there", True):
                end = cut(file, entry["end"], size_bytes)
                if end == entry["end"]:
                    return
                # First written down, then done: who goes on after a kill makes the same segment.
                entry |= {"segments": entry["segments"] + 1, "start": entry["end"], "end": end}
                entry["is_there"] = False
                ledger.write()
            with file.open("rb") as opened:
                opened.seek(entry["start"])
                content = opened.read(entry["end"] - entry["start"])
            name = segment_name(path, entry["segments"] - 1)
            with reaching(self.run.directory):
                fs, key = file_system(self.run.directory / name)
                fs.pipe_file(key, content)
            entry["is_there"] = True
            ledger.write()

    def _replace(self, ledger: Ledger, path: str, stat: os.stat_result, *, is_last: bool) -> None:
        told = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        is_written_to = time.time() - stat.st_mtime < STABLE_SECONDS and not is_last
        if ledger.files.get(path) == told or is_written_to:
            return
        upload(self.local.directory / path, self.run.directory / path)
        ledger.files[path] = told
        ledger.write()


class _Files(_Lane):
    """Logs, events, records, and whatever else lies there."""

    name = "files"
    _record_at = 0.0
    _record: Progress | None = None

    def is_mine(self, path: str) -> bool:
        """All but checkpoints."""
        return not path.startswith(_OWN) and "checkpoints" not in Path(path).parts[:-1]

    def sync(self, *, is_last: bool) -> None:
        """As the lane's."""
        self.look(is_last=is_last)
        self.sync_files(is_last=is_last)

    def look(self, *, is_last: bool = False) -> None:
        """How far training is: every other second, and at once when a save begins or has ended."""
        record = Progress.read(self.local)
        if record is not None and (error := self.errors.get(_Checkpoints.name)):
            record = replace(record, upload_error=error)
        if record is None or record == self._record:
            return
        is_new_phase = self._record is None or record.phase != self._record.phase
        if is_last or is_new_phase or time.monotonic() >= self._record_at:
            record.write(self.run)
            self._record, self._record_at = record, time.monotonic() + RECORD_SECONDS


class _Checkpoints(_Lane):
    """The run's own checkpoints, and those of the user's ModelCheckpoint."""

    name = "checkpoints"
    _brought: dict[str, Any] | None = None

    def is_mine(self, path: str) -> bool:
        """Those that the user's callbacks save; the committed ones go another way."""
        return not path.startswith(_OWN) and "checkpoints" in Path(path).parts[:-1]

    def sync(self, *, is_last: bool) -> None:
        """As the lane's."""
        self.look()
        self.sync_files(is_last=is_last)

    def look(self) -> None:
        """Bring the newest committed checkpoint, and commit it on storage by its marker."""
        checkpoint = newest(self.local)
        if checkpoint is None:
            return
        marker = read_json(checkpoint.path.with_suffix(".json"))
        if marker is None or marker == self._brought:
            return
        target = self.run.directory / CHECKPOINTS / checkpoint.path.name
        stored = read_json(target.with_suffix(".json")) or {}
        if marker.items() <= stored.items():
            self._brought = marker
            return
        digest = hash_of(checkpoint.path)
        there = {path.name: path for path in children(self.run.directory / CHECKPOINTS)}
        for name, path in there.items():
            # By the list: to ask for the marker would take silence for a no.
            if name.endswith(".ckpt") and f"{path.stem}.json" not in there:
                remove(path)  # of an upload that was killed
        for file in files_of(checkpoint.path):
            upload(
                file,
                target / file.relative_to(checkpoint.path) if file != checkpoint.path else target,
            )
        write_json(target.with_suffix(".json"), {**marker, "sha256": digest})
        self._brought = marker
        for old in all_committed(self.run)[:-KEPT]:
            remove(old.path.with_suffix(".json"))  # first: what is removed in part must not count
            remove(old.path)
