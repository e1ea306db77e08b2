"""The local copy of a run on remote storage: made before workers start, removed at the end.

Workers write to this staging directory, and :class:`~getiaction_launch.mirror.mirror.Mirror`
uploads it to the run's URL. Before they start, the files that they need from earlier attempts are
downloaded: the checkpoint to resume from, the end states of finished fits and, only on the node of
rank 0, which continues to write them, the files of the user's callbacks.
"""

import contextlib
import fcntl
import os
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.errors import CheckError, StorageError
from getiaction_launch.mirror.kept import Arrivals, announce, can_arrive_later
from getiaction_launch.mirror.ledger import (
    CHECKPOINTS,
    COMMITTED,
    FILES,
    LANES,
    Head,
    Ledger,
    Whole,
    lane_of,
    locked,
)
from getiaction_launch.mirror.mirror import Mirror
from getiaction_launch.mirror.removals import forget_removals
from getiaction_launch.mirror.sweep import sweep, unsaved_files
from getiaction_launch.mirror.transfer import download, hash_of, say, say_refused
from getiaction_launch.mirror.uploading.walk import is_record, is_unfinished
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.checkpoint import Checkpoint, Marker
from getiaction_launch.run.finished import PLACE, finished_fits, path_of
from getiaction_launch.run.run import Run, check_staging, staging_root
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.objects import is_s3
from getiaction_launch.storage.paths import children, file_system, reaching, remove, write_json
from getiaction_launch.storage.segment import name_and_number, only_grows
from getiaction_launch.storage.tree import find, place_below
from getiaction_launch.system.stop import StopRequest

if TYPE_CHECKING:
    from typing_extensions import Self

SALVAGE_SECONDS = 300
LOCK_SECONDS = 600
_LOGS = "launch/logs/"


@dataclass
class Staging:
    """A run's staging directory on this node, and its mirror, for one attempt.

    A context manager: enter it before the workers start, and leave it when they have ended. It
    holds a lock so that systemd-tmpfiles(8) does not clean the directory. For a run on a file
    system it does nothing.

    Attributes:
        run: The run that is trained.
        plan: The plan of this run.
        number: Number of the attempt, from 0.
        node_rank: Rank of this node in the run, from 0.
        resume_from: Checkpoint that all workers resume from; its local path, once entered.
        stop: Request that stops this node's workers, when uploads have failed for too long.
        is_finished: Set by the caller when training has finished; the directory is removed then.
        is_lost: Set by the caller when the run belongs to another job or nobody; nothing is
            uploaded then.
        is_removed: Set by the caller when the run was removed; the directory is removed then.

    Raises:
        CheckError: On entering, if the directory cannot be made or the checkpoint is damaged.
        StorageError: On entering, if a download fails; on leaving, if an upload fails.
    """

    run: Run
    plan: Plan
    number: int
    node_rank: int
    resume_from: str | None
    stop: StopRequest
    is_finished: bool = False
    is_lost: bool = False
    is_removed: bool = False

    def __enter__(self) -> "Self":
        self._undo = contextlib.ExitStack()
        local = self.run.local
        if local is self.run:
            return self
        self._limit_seconds = self.plan.uploading.limit_minutes * 60
        self._undo.callback(self._remove_if_finished, self._lock())
        self.run.make_log_directory(self.number)
        with contextlib.ExitStack() as stack:
            for lane in LANES:
                stack.enter_context(locked(local.directory, lane, LOCK_SECONDS))
            # A program may look for its own checkpoints when it starts; a spec resumes from ours.
            is_spec = self.resume_from is not None and not self.plan.script
            prepare(self.run, self.number, self.node_rank, self.resume_from, behind=is_spec)
        if self.resume_from:
            name = _committed_name(self.run, self.resume_from)
            self.resume_from = str(local.directory / COMMITTED / name)
        self._mirror = Mirror(
            self.run,
            period_seconds=self.plan.uploading.period_seconds,
            limit_seconds=self._limit_seconds,
            stop=self.stop,
        )
        self._undo.callback(self._close, self._mirror)
        self._mirror.start()
        if self.node_rank == 0:
            arrivals = Arrivals(self.run)
            self._undo.callback(arrivals.close)
            arrivals.start()
        # Beside the training, as it asks storage about other runs.
        threading.Thread(target=sweep, args=(staging_root(), local), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.is_finished = self.is_finished and kind is None
        self._undo.close()

    def _close(self, mirror: Mirror) -> None:
        if self.is_lost:
            mirror.abandon()
        else:
            mirror.close(self._limit_seconds)

    def _lock(self) -> int:
        place = _place(self.run.local)
        while True:
            self.run.make_log_directory(self.number)
            with contextlib.ExitStack() as locks, contextlib.suppress(FileNotFoundError):
                for directory in (staging_root(), place):
                    descriptor = os.open(directory, os.O_RDONLY)
                    locks.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                # Beware: a node that has finished may have removed the directory meanwhile.
                if os.path.samestat(os.fstat(descriptor), place.stat()):
                    self._undo.push(locks.pop_all())
                    return descriptor

    def _remove_if_finished(self, lock: int) -> None:
        if not self.is_finished and not self.is_removed:
            return
        if (refused := self._mirror.refused) and not self.is_removed:
            say(f"{self.run.local.directory} is kept, as {', '.join(refused)} cannot be uploaded")
            return
        # Only the last node on this machine gets the exclusive lock.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(_place(self.run.local), ignore_errors=True)


def _place(local: Run) -> Path:
    return local.directory.parents[1]


def prepare(
    run: Run, number: int, node_rank: int, resume_from: str | None, *, behind: bool = False
) -> None:
    """Download what an attempt starts from to the staging directory, and remove outdated files.

    Args:
        run: The run to prepare; its directory is a URL.
        number: Number of the attempt, from 0.
        node_rank: Rank of this node in the run, from 0.
        resume_from: URL of the checkpoint that all workers resume from; None to start anew.
        behind: Whether kept checkpoints arrive later, by :mod:`~getiaction_launch.mirror.kept`.

    Raises:
        CheckError: If the checkpoint is damaged.
        StorageError: If a download fails.
    """
    local = run.local
    head = Head.read(local)
    # Beware: what another node of this machine was prepared for, its workers may use already.
    is_first = head.prepared != number
    if is_first:
        if head.attempt not in (number - 1, number):
            _forget(local)  # rank 0 has run on another machine since
        announce(local.directory, ())
        write_json(local.launch_directory / "plan.json", run.read("plan") or {})
    if resume_from:
        name = _committed_name(run, resume_from)
        _download_checkpoint(run, COMMITTED, name, Marker.read(run.directory / COMMITTED / name))
    for fit, end in finished_fits(run).items():
        _download_checkpoint(run, PLACE, path_of(run, fit).name, end)
    if node_rank == 0 and number > 0:
        _download_files(run, behind=behind)
        _abort_uploads(run)
    if is_first or node_rank == 0:
        forget_removals(local.directory)
    Head(number if node_rank == 0 else head.attempt, number).write(local)


def _forget(local: Run) -> None:
    """Remove outdated files; logs are kept, as no other machine writes them."""
    unsaved = [path for path in unsaved_files(local) if not path.startswith(_LOGS)]
    if unsaved:
        say(f"{local.directory}: removed outdated files, not uploaded: {', '.join(unsaved)}")
    kept = {local.launch_directory, local.launch_directory / "logs"}
    for path in (*children(local.directory), *children(local.launch_directory)):
        if path not in kept and not is_record(path.relative_to(local.directory)):
            remove(path)
    for lane in LANES:
        ledger = Ledger(local.directory, lane)
        logs = {p: entry for p, entry in ledger.files.items() if p.startswith(_LOGS)}
        ledger.files = logs
        ledger.write()


def _committed_name(run: Run, url: str) -> str:
    """Return the name of the committed checkpoint that an attempt's record names.

    Raises:
        CheckError: If it names something else, of another run or in another directory.
    """
    directory, _, name = url.rpartition("/")
    if why_refused(name) or directory != str(run.directory / COMMITTED):
        raise CheckError(
            f"{url!r} is not a checkpoint of run {run.directory}, and is not resumed from.",
            f"Resume from the newest one: getiaction-launch resume {run.directory}",
        )
    return name


def _download_checkpoint(run: Run, place: str, name: str, stored: Marker | None) -> None:
    source = run.directory / place / name
    target = run.local.directory / place / name
    if stored is None:
        raise StorageError(
            f"{source} is not a committed checkpoint any more.",
            f"Resume from the newest one: getiaction-launch resume {run.directory}",
        )
    if stored.is_of(Marker.read(target)) and Checkpoint.read(target):
        return
    remove(target.with_suffix(".json"))
    remove(target)
    arriving = target.with_name(f".{name}.partial")
    remove(arriving)
    target.parent.mkdir(parents=True, exist_ok=True)
    download(source, arriving)
    digest = hash_of(arriving)
    if stored.sha256 and digest != stored.sha256:
        # The next attempt must not choose it again, but the one before it.
        remove(source.with_suffix(".json"))
        raise CheckError(
            f"{source} is damaged: its contents are not those that were saved.",
            f"Resume from the checkpoint before it: getiaction-launch resume {run.directory}",
        )
    arriving.replace(target)
    # The hash says that it was downloaded: a worker must not load all that it may hold.
    replace(stored, sha256=digest).write(target)


def _download_files(run: Run, *, behind: bool) -> None:
    """Download what the user's callbacks have saved; files that exist here already are newer."""
    local = run.local
    ledgers = {lane: Ledger(local.directory, lane) for lane in LANES}
    found = find(run.directory)
    for path, reason in found.refused.items():
        say_refused(path, reason)
    targets: dict[str, Path] = {}
    for path in found.sizes:
        lane = None if path.startswith("launch/") or is_unfinished(path) else lane_of(path)
        if lane is None or only_grows(name_and_number(path)[0]):
            continue
        if os.path.lexists(local.directory / path):
            continue
        try:
            targets[path] = place_below(local.directory, path)
        except StorageError as error:
            say_refused(path, str(error))
    later = {path for path in targets if behind and can_arrive_later(path)}
    for path in later:
        ledgers[CHECKPOINTS].files[path] = Whole.to_arrive(found.sizes[path])

    def download_one(path: str) -> None:
        # A download that is killed must not leave a part of a file that counts as newer.
        target = targets[path]
        arriving = target.with_name(f".{target.name}.partial")
        remove(arriving)
        download(run.directory / path, arriving)
        arriving.replace(target)
        ledgers[lane_of(path) or FILES].files[path] = Whole.of(target.stat())

    for_each(download_one, [path for path in targets if path not in later], run.directory)
    for ledger in ledgers.values():
        ledger.write()
    announce(local.directory, later)


def _abort_uploads(run: Run) -> None:
    """Drop the parts of uploads that were killed; S3 keeps them, and bills them, until then."""
    fs, key = file_system(run.directory)
    if not is_s3(fs):
        return
    bucket, _, prefix = key.partition("/")
    # Not every store supports or allows it; a lifecycle rule of the bucket does the same.
    with contextlib.suppress(StorageError), reaching(run.directory):
        answer = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        for upload in answer.get("Uploads", ()):
            which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
            fs.call_s3("abort_multipart_upload", Bucket=bucket, **which)


def salvage(run: Run, number: int) -> None:
    """Upload what the attempt before ``number`` has left on this machine when it was killed.

    Args:
        run: The run that is about to start another attempt.
        number: Number of that attempt, from 0.

    Raises:
        CheckError: If another user may have written there.
        StorageError: If an upload fails.
    """
    local = run.local
    check_staging(run)
    if local is run or not local.directory.is_dir():
        return
    if Head.read(local).attempt == number - 1:
        Mirror(run).close(SALVAGE_SECONDS)
