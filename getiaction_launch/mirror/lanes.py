"""What the mirror uploads: one class for everything that is small, and one for checkpoints.

Each runs in a thread of its own, so that no log waits for the upload of a checkpoint.
"""

import time
from collections.abc import Mapping
from dataclasses import replace

from getiaction_launch.mirror.ledger import CHECKPOINTS, COMMITTED, FILES
from getiaction_launch.mirror.sync import Sync
from getiaction_launch.mirror.transfer import hash_of, upload
from getiaction_launch.run.checkpoint import KEPT, Marker, all_committed, files_of, newest
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, open_path, remove

RECORD_SECONDS = 2.0
READ_SECONDS = 60.0
"""How long a store may take to answer; after an upload in parts it may have to join them."""


class Files:
    """Uploads logs, curves, the training progress, and all other files but checkpoints.

    Args:
        run: The run to upload; its directory is a URL.
        errors: Why a lane fails at present, by the lane's name.

    Attributes:
        files: Uploads the lane's files.
    """

    name = FILES

    def __init__(self, run: Run, errors: Mapping[str, str]) -> None:
        self.run = _open(run)
        self.files = Sync(self.run, self.name)
        self._errors = errors
        self._record: Progress | None = None
        self._record_at = 0.0

    def sync(self, *, is_last: bool) -> None:
        """Upload everything that is new."""
        self.look(is_last=is_last)
        self.files.run(is_last=is_last)

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

    Attributes:
        files: Uploads the lane's files but the committed checkpoints.
    """

    name = CHECKPOINTS

    def __init__(self, run: Run) -> None:
        self.run = _open(run)
        self.files = Sync(self.run, self.name)
        self._uploaded: Marker | None = None

    def sync(self, *, is_last: bool) -> None:
        """Upload everything that is new."""
        self.look()
        self.files.run(is_last=is_last)

    def look(self) -> None:
        """Upload the newest committed checkpoint, and commit it on storage with its marker."""
        checkpoint = newest(self.run.local)
        marker = Marker.read(checkpoint.path) if checkpoint else None
        if checkpoint is None or marker is None or marker == self._uploaded:
            return
        target = self.run.directory / COMMITTED / checkpoint.path.name
        stored = Marker.read(target)
        if marker.is_of(stored):
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
