"""What the mirror uploads: one class for everything that is small, and one for checkpoints.

Each runs in a thread of its own, so that no log waits for the upload of a checkpoint.
"""

import contextlib
import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace

from getiaction_launch.errors import RecordError
from getiaction_launch.mirror.ledger import CHECKPOINTS, COMMITTED, FILES, Head
from getiaction_launch.mirror.transfer import upload
from getiaction_launch.mirror.uploading.sync import Sync
from getiaction_launch.run.beats.records import read_beats
from getiaction_launch.run.checkpoint import (
    KEPT,
    Checkpoint,
    Marker,
    all_committed,
    files_of,
    newest,
)
from getiaction_launch.run.network.records import NetworkRecord
from getiaction_launch.run.reading.summary import LastCheckpoint, Summary, read_summary
from getiaction_launch.run.records import AttemptRecord, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, open_path, remove

RECORD_SECONDS = 2.0
BEATS_SECONDS = 30.0
"""How often to upload what ranks do while they make no progress."""
CURVES_SHARE = 1 / 120
"""How long curves wait for an upload, as a share of the run's age."""
MAX_CURVES_SECONDS = 600.0
READ_SECONDS = 60.0
"""How long a store may take to answer; after an upload in parts it may have to join them."""


class Files:
    """Uploads logs, curves, the training progress, and all other files but checkpoints.

    Args:
        run: The run to upload; its directory is a URL.
        errors: Why a lane fails at present, by the lane's name.
        checkpoints: The lane of the checkpoints.

    Attributes:
        files: Uploads the lane's files.
    """

    name = FILES

    def __init__(
        self, run: Run, errors: Mapping[str, str], checkpoints: "Checkpoints | None" = None
    ) -> None:
        self.run = _open(run)
        self.files = Sync(self.run, self.name)
        self._errors, self._checkpoints = errors, checkpoints
        self._record: Progress | None = None
        self._summary: Summary | None = None
        self._record_at = self._seen_at = 0.0
        self._curves = Curves(self.run)

    def sync(self, *, is_last: bool) -> None:
        """Upload everything that is new."""
        self.look(is_last=is_last)
        with_curves = is_last or self._curves.are_due()
        self.files.run(is_last=is_last, with_curves=with_curves)
        if with_curves:
            self._curves.uploaded()

    def look(self, *, is_last: bool = False) -> None:
        """Upload the progress: every two seconds, and at once when training changes its phase.

        With it goes what this machine knows of the run, for who looks at it in one request.
        """
        head = Head.read(self.run.local)
        # Otherwise what is here is of an earlier attempt, in which rank 0 was on this machine.
        record = Progress.read(self.run.local) if head.attempt == head.prepared else None
        if record is not None and (error := self._errors.get(CHECKPOINTS)):
            record = replace(record, upload_error=error)
        if record is None:
            return
        before, is_first, now = self._record, self._record is None, time.monotonic()
        is_new = is_first or is_last or (before and record.phase != before.phase)
        if not is_new and now < self._record_at:
            return
        if is_first:
            # The process that has begun the attempt wrote it; of earlier versions, none did.
            self._summary = read_summary(self.run)
        summary = self._add_news(self._summary) if self._summary else None
        if record != before or (summary and self._is_news(summary, now)):
            if summary:
                summary.write(self.run, record)
            else:
                record.write(self.run)
            self._record, self._summary = record, summary
            self._record_at, self._seen_at = now + RECORD_SECONDS, now + BEATS_SECONDS

    def _add_news(self, summary: Summary) -> Summary:
        local, attempt = self.run.local, summary.attempts - 1
        with contextlib.suppress(OSError, ValueError):  # the progress says more
            summary = replace(
                summary,
                beats=read_beats(local, attempt),
                network=NetworkRecord.read(local, attempt),
                checkpoint=self._checkpoints.uploaded if self._checkpoints else None,
            )
        return summary

    def _is_news(self, summary: Summary, now: float) -> bool:
        """Whether to upload the progress although training has not made any."""
        before = self._summary
        if before is None or summary == before:
            return False
        stalls = [[node.stall for node in each.beats] for each in (before, summary)]
        known = [(each.checkpoint, each.network) for each in (before, summary)]
        return stalls[0] != stalls[1] or known[0] != known[1] or now >= self._seen_at


class Curves:
    """Decides when curves are uploaded: the less often, the older the run is.

    Each upload is one more object, which TensorBoard opens. In a run of a week, points that are ten
    minutes old are as good as new.

    Args:
        run: The run; its directory is a URL.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._begun_at = run, 0.0
        self._uploaded_at = -MAX_CURVES_SECONDS
        self._found: Checkpoint | None = None
        self._checkpoint: Checkpoint | None = None

    def are_due(self) -> bool:
        """Whether it is time, or a checkpoint was saved: what leads to it must not be lost."""
        self._found = newest(self._run.local)
        self._begun_at = self._begun_at or self._read_begun_at()
        period_seconds = min((time.time() - self._begun_at) * CURVES_SHARE, MAX_CURVES_SECONDS)
        is_new = self._found != self._checkpoint
        return is_new or time.monotonic() >= self._uploaded_at + period_seconds

    def uploaded(self) -> None:
        """Note that they have just been uploaded."""
        self._uploaded_at, self._checkpoint = time.monotonic(), self._found

    def _read_begun_at(self) -> float:
        with contextlib.suppress(RecordError):
            if first := AttemptRecord.read(self._run, 0):
                return first.started_at
        return time.time()


class Checkpoints:
    """Uploads committed checkpoints, and those of the user's ModelCheckpoint.

    Args:
        run: The run to upload; its directory is a URL.

    Attributes:
        files: Uploads the lane's files but the committed checkpoints.
        uploaded: The newest committed checkpoint on storage, as far as this machine knows.
    """

    name = CHECKPOINTS

    def __init__(self, run: Run) -> None:
        self.run = _open(run)
        self.files = Sync(self.run, self.name)
        self.uploaded: LastCheckpoint | None = None
        self._marker: Marker | None = None

    def sync(self, *, is_last: bool) -> None:
        """Upload everything that is new."""
        self.look()
        self.files.run(is_last=is_last)

    def look(self) -> None:
        """Upload the newest committed checkpoint, and commit it on storage with its marker."""
        checkpoint = newest(self.run.local)
        marker = Marker.read(checkpoint.path) if checkpoint else None
        if checkpoint is None or marker is None or marker == self._marker:
            return
        target = self.run.directory / COMMITTED / checkpoint.path.name
        stored = Marker.read(target)
        if marker.is_of(stored):
            self._note(checkpoint, marker)
            return
        self._remove_uncommitted()
        digest = hashlib.sha256()  # as hash_of() computes it of a download
        for file in files_of(checkpoint.path):
            is_directory = file != checkpoint.path
            place = target / file.relative_to(checkpoint.path) if is_directory else target
            upload(file, place, digest)
        replace(marker, sha256=digest.hexdigest()).write(target)
        self._note(checkpoint, marker)
        self._remove_old()

    def _note(self, checkpoint: Checkpoint, marker: Marker) -> None:
        self._marker = marker
        self.uploaded = LastCheckpoint(checkpoint.path.name, marker.step, marker.saved_at)

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
