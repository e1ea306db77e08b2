"""The local copy of a run whose directory is a URL: made before workers start, removed at the end.

Workers write there, and :class:`~getiaction_launch.mirror.mirror.Mirror` uploads it to the URL.
Before they start, the files of earlier attempts that they need are downloaded: the checkpoint that
they resume from and, on the node of rank 0, which alone continues to write them, the files of the
user's callbacks.
"""

import contextlib
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from getiaction_launch.errors import CheckError, StorageError
from getiaction_launch.mirror.ledger import Ledger, walk
from getiaction_launch.mirror.mirror import CHECKPOINTS, Mirror
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.checkpoint import Checkpoint
from getiaction_launch.run.run import Run, staging_root
from getiaction_launch.storage.paths import file_system, reaching, read_json, remove, write_json
from getiaction_launch.storage.segment import name_and_number, only_grows

if TYPE_CHECKING:
    from typing_extensions import Self

from getiaction_launch.mirror.transfer import download, hash_of
from getiaction_launch.system.stop import StopRequest

SALVAGE_SECONDS = 300
LOCK_SECONDS = 600
LANES = ("files", "checkpoints")


@dataclass
class Staging:
    """A run's staging directory on this node, and its mirror, for one attempt.

    A context: entered before the workers start, left when they have ended. It lets no cleaner of
    temporary files in: those leave a locked directory alone (systemd-tmpfiles(8)). Of a run that
    lies in a directory there is nothing to stage, and it does nothing.

    Attributes:
        run: Which.
        plan: The run's.
        number: The attempt's.
        node_rank: This node, from 0.
        resume_from: The checkpoint that all workers start from; once entered, its path here.
        stop: Stops this node's workers, when storage has taken nothing for too long.
        is_finished: Set by the caller when training has: then nothing is left of the directory.

    Raises:
        CheckError: On entering, if there is no place for it, or the checkpoint is damaged.
        StorageError: On entering and on leaving, if storage does not do its part.
    """

    run: Run
    plan: Plan
    number: int
    node_rank: int
    resume_from: str | None
    stop: StopRequest
    is_finished: bool = False

    def __enter__(self) -> "Self":
        self._undo = contextlib.ExitStack()
        local = self.run.local
        if local is self.run:
            return self
        self._limit_seconds = self.plan.uploading.limit_minutes * 60
        self.run.make_log_directory(self.number)
        self._undo.callback(self._remove_if_finished, self._lock(staging_root(), _place(local)))
        with contextlib.ExitStack() as stack:
            for lane in LANES:
                stack.enter_context(Ledger.locked(local.directory, lane, LOCK_SECONDS))
            prepare(self.run, self.number, self.node_rank, self.resume_from)
        if self.resume_from:
            name = self.resume_from.rpartition("/")[2]
            self.resume_from = str(local.directory / CHECKPOINTS / name)
        mirror = Mirror(
            self.run,
            period_seconds=self.plan.uploading.period_seconds,
            limit_seconds=self._limit_seconds,
            stop=self.stop,
        )
        self._undo.callback(mirror.close, self._limit_seconds)
        mirror.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.is_finished = self.is_finished and kind is None
        self._undo.close()

    def _lock(self, *directories: Path) -> int:
        for directory in directories:
            descriptor = os.open(directory, os.O_RDONLY)
            self._undo.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def _remove_if_finished(self, lock: int) -> None:
        if not self.is_finished:
            return
        # Only the last node on this machine gets it to itself.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(_place(self.run.local), ignore_errors=True)


def _place(local: Run) -> Path:
    return local.directory.parents[1]


def prepare(run: Run, number: int, node_rank: int, resume_from: str | None) -> None:
    """Have in the staging directory what this attempt starts from, and nothing that is out of date.

    Args:
        run: Whose directory is a URL.
        number: The attempt's.
        node_rank: This node, from 0.
        resume_from: The URL of the checkpoint that all workers start from.

    Raises:
        CheckError: If that is damaged.
        StorageError: If storage does not do its part.
    """
    local = run.local
    kept = local.directory / ".head.json"
    head = (read_json(kept) or {}).get("attempt", -1)
    if head not in (number - 1, number):
        _forget(local)  # rank 0 was elsewhere meanwhile
    write_json(local.launch_directory / "plan.json", run.read("plan") or {})
    if resume_from:
        _bring_checkpoint(run, resume_from)
    if node_rank == 0:
        if number > 0:
            _bring_files(run)
            _abandon_uploads(run)
        write_json(kept, {"attempt": number})


def _forget(local: Run) -> None:
    """Remove what is out of date; logs are not, as nobody else writes them."""
    ledgers = {lane: Ledger(local.directory, lane) for lane in LANES}
    for path, _ in list(walk(local.directory)):
        if not path.startswith("launch/logs/"):
            (local.directory / path).unlink()
            for ledger in ledgers.values():
                ledger.files.pop(path, None)
    for ledger in ledgers.values():
        ledger.write()


def _bring_checkpoint(run: Run, url: str) -> None:
    name = url.rpartition("/")[2]
    source = run.directory / CHECKPOINTS / name
    target = run.local.directory / CHECKPOINTS / name
    marker = read_json(source.with_suffix(".json"))
    if marker is None:
        raise StorageError(f"{source} is gone.", f"getiaction-launch resume {run.directory}")
    digest = marker.get("sha256")
    here = read_json(target.with_suffix(".json"))
    if here and here.items() <= marker.items() and Checkpoint.read(target):
        return
    remove(target.with_suffix(".json"))
    remove(target)
    arriving = target.with_name(f"{name}.partial")
    remove(arriving)
    target.parent.mkdir(exist_ok=True)
    download(source, arriving)
    if digest and hash_of(arriving) != digest:
        # It must not be chosen again; the one before it is, by the next attempt.
        remove(source.with_suffix(".json"))
        raise CheckError(
            f"{source} is damaged: its contents are not those that were saved.",
            f"Resume from the one before it: getiaction-launch resume {run.directory}",
        )
    arriving.replace(target)
    content = {name: value for name, value in marker.items() if name != "sha256"}
    write_json(target.with_suffix(".json"), content)


def _bring_files(run: Run) -> None:
    """Bring what the user's callbacks have saved; what is here already is newer."""
    local = run.local
    ledgers = {lane: Ledger(local.directory, lane) for lane in LANES}
    known = {path for ledger in ledgers.values() for path in ledger.files}
    with reaching(run.directory):
        fs, root = file_system(run.directory)
        keys = fs.find(root)
    for key in keys:
        path = key.removeprefix(root).lstrip("/")
        is_of_a_log = only_grows(name_and_number(path)[0])
        target = local.directory / path
        if path.startswith("launch/") or is_of_a_log or path in known or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        download(run.directory / path, target)
        told = target.stat()
        lane = "checkpoints" if "checkpoints" in Path(path).parts[:-1] else "files"
        ledgers[lane].files[path] = {"size": told.st_size, "mtime_ns": told.st_mtime_ns}
    for ledger in ledgers.values():
        ledger.write()


def _abandon_uploads(run: Run) -> None:
    """Drop the parts of uploads that were killed, which S3 keeps, and bills, until told."""
    fs, key = file_system(run.directory)
    if "s3" not in fs.protocol:
        return
    bucket, _, prefix = key.partition("/")
    # Not every store can list them, nor lets everybody; the bucket's lifecycle does the same.
    with contextlib.suppress(StorageError), reaching(run.directory):
        told = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/")
        for upload in told.get("Uploads", ()):
            which = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
            fs.call_s3("abort_multipart_upload", Bucket=bucket, **which)


def salvage(run: Run, number: int) -> None:
    """Bring what attempt ``number - 1`` has left on this machine when it was killed.

    Raises:
        StorageError: If storage does not take it.
    """
    local = run.local
    if local is run or not local.directory.is_dir():
        return
    head = (read_json(local.directory / ".head.json") or {}).get("attempt")
    if head == number - 1:
        Mirror(run).close(SALVAGE_SECONDS)
