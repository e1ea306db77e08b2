"""What the mirror uploads: one class for everything that is small, and one for checkpoints.

Each runs in a thread of its own, so that no log waits for the upload of a checkpoint.
"""

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import replace

from getiaction_launch.mirror.ledger import (
    CHECKPOINTS,
    COMMITTED,
    FILES,
    Ledger,
    Segmented,
    Whole,
    lane_of,
    walk,
)
from getiaction_launch.mirror.transfer import hash_of, upload
from getiaction_launch.run.checkpoint import KEPT, Marker, all_committed, files_of, newest
from getiaction_launch.run.records import Progress
from getiaction_launch.run.rotation import end_of, read_from
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import (
    children,
    file_system,
    open_path,
    reaching,
    remove,
)
from getiaction_launch.storage.segment import cut, only_grows, segment_name

RECORD_SECONDS = 2.0
STABLE_SECONDS = 2.0
READ_SECONDS = 60.0
"""How long a store may take to answer; after an upload in parts it may have to join them."""


class Files:
    """Uploads logs, curves, the training progress, and all other files but checkpoints.

    Args:
        run: The run to upload; its directory is a URL.
        errors: Why a lane fails at present, by the lane's name.
    """

    name = FILES

    def __init__(self, run: Run, errors: Mapping[str, str]) -> None:
        self.run = _open(run)
        self._errors = errors
        self._record: Progress | None = None
        self._record_at = 0.0

    def sync(self, *, is_last: bool) -> None:
        """Upload everything that is new."""
        self.look(is_last=is_last)
        _sync_files(self.run, self.name, is_last=is_last)

    def look(self, *, is_last: bool = False) -> None:
        """Upload the progress: every two seconds, and at once when training changes its phase."""
        record = Progress.read(self.run.local)
        if record is not None and (error := self._errors.get(CHECKPOINTS)):
            record = replace(record, upload_error=error)
        if record is None or record == self._record:
            return
        is_new_phase = self._record is None or record.phase != self._record.phase
        if is_last or is_new_phase or time.monotonic() >= self._record_at:
            record.write(self.run)
            self._record, self._record_at = record, time.monotonic() + RECORD_SECONDS


class Checkpoints:
    """Uploads committed checkpoints, and those of the user's ModelCheckpoint.

    Args:
        run: The run to upload; its directory is a URL.
    """

    name = CHECKPOINTS

    def __init__(self, run: Run) -> None:
        self.run = _open(run)
        self._uploaded: Marker | None = None

    def sync(self, *, is_last: bool) -> None:
        """Upload everything that is new."""
        self.look()
        _sync_files(self.run, self.name, is_last=is_last)

    def look(self) -> None:
        """Upload the newest committed checkpoint, and commit it on storage with its marker."""
        checkpoint = newest(self.run.local)
        marker = Marker.read(checkpoint.path) if checkpoint else None
        if checkpoint is None or marker is None or marker == self._uploaded:
            return
        target = self.run.directory / COMMITTED / checkpoint.path.name
        stored = Marker.read(target)
        if stored and replace(stored, sha256=None) == marker:
            self._uploaded = marker
            return
        digest = hash_of(checkpoint.path)
        self._remove_uncommitted()
        for file in files_of(checkpoint.path):
            is_directory = file != checkpoint.path
            upload(file, target / file.relative_to(checkpoint.path) if is_directory else target)
        replace(marker, sha256=digest).write(target)
        self._uploaded = marker
        self._remove_old()

    def _remove_uncommitted(self) -> None:
        """Remove what uploads that were killed have left."""
        found = {path.name: path for path in children(self.run.directory / COMMITTED)}
        for name, path in found.items():
            # Beware: asked for a marker, a store that fails may say that there is none.
            if name.endswith(".ckpt") and f"{path.stem}.json" not in found:
                remove(path)

    def _remove_old(self) -> None:
        for old in all_committed(self.run)[:-KEPT]:
            # Markers first: a checkpoint that is removed in part must not count.
            remove(old.path.with_suffix(".json"))
            remove(old.path)


def _open(run: Run) -> Run:
    return Run(open_path(run.directory, read_seconds=READ_SECONDS))


def _sync_files(run: Run, lane: str, *, is_last: bool) -> None:
    """Upload the new files of a lane, and remove from storage what was removed here."""
    ledger = Ledger(run.local.directory, lane)
    found = {path: stat for path, stat in walk(run.local.directory) if lane_of(path) == lane}
    # Files that only grow come first: they are small, and people watch them.
    for path in sorted(found, key=lambda path: (not only_grows(path), path)):
        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
            if only_grows(path):
                _append(run, ledger, path, end_of(run.local.directory / path))
            else:
                _replace(run, ledger, path, found[path], is_last=is_last)
    for path in ledger.files.keys() - found.keys():
        for name in ledger.files[path].objects(path):
            remove(run.directory / name)
        del ledger.files[path]
    ledger.write()


def _append(run: Run, ledger: Ledger, path: str, size_bytes: int) -> None:
    file = run.local.directory / path
    while True:
        entry = ledger.files.get(path)
        if not isinstance(entry, Segmented):
            entry = Segmented()
        if entry.is_there:
            end = cut(file, entry.end, size_bytes)
            if end == entry.end:
                return
            # Recorded before the upload: after a crash the same bytes make the same segment.
            entry = Segmented(entry.segments + 1, entry.end, end, is_there=False)
            ledger.record(path, entry)
        content, position = b"", entry.start
        while position < entry.end:
            piece, position = read_from(file, position, entry.end - position)
            if not piece:
                break
            content += piece
        entry = replace(entry, end=max(entry.end, position))  # further, if its middle was dropped
        with reaching(run.directory):
            fs, key = file_system(run.directory / segment_name(path, entry.segments - 1))
            fs.pipe_file(key, content)
        ledger.record(path, replace(entry, is_there=True))


def _replace(run: Run, ledger: Ledger, path: str, stat: os.stat_result, *, is_last: bool) -> None:
    entry = Whole.of(stat)
    is_being_written = time.time() - stat.st_mtime < STABLE_SECONDS and not is_last
    if ledger.files.get(path) == entry or is_being_written:
        return
    upload(run.local.directory / path, run.directory / path)
    ledger.record(path, entry)
