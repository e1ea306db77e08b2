"""Committed checkpoints: what a run resumes from, wherever it was interrupted.

A checkpoint ``launch/checkpoints/<name>.ckpt`` counts once its marker ``<name>.json`` lies next to
it. The marker is written last, when the checkpoint is complete and on disk, and records its size. A
file without a matching marker is not a checkpoint and is cleaned up later. This module never opens
a checkpoint, so it needs neither torch nor Lightning: a node looks for the newest checkpoint before
its workers start.
"""

import contextlib
import itertools
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from getiaction_launch.errors import RecordError, StorageError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED
from getiaction_launch.storage.paths import (
    children,
    file_system,
    is_remote,
    kind_of,
    modified_at,
    reaching,
    read_json,
    remove,
    write_json,
)
from getiaction_launch.storage.tree import find

KEPT = 2
"""How many committed checkpoints are kept: the newest, and one more in case it is unreadable."""


class Interrupted(SystemExit):
    """Training stopped on request, on all ranks at the same step, and should be resumed later."""

    def __init__(self) -> None:
        super().__init__(EXIT_INTERRUPTED)


@dataclass(frozen=True)
class Marker:
    """The JSON file next to a checkpoint, which makes it count.

    Attributes:
        attempt: Number of the attempt that saved the checkpoint, from 0.
        fit: Number of the ``Trainer.fit`` call in the worker's process, from 0.
        step: Training batches of the fit so far; optimizer steps in runs of version 0.1.
        epoch: Epoch in which the checkpoint was saved, from 0.
        reason: Why it was saved: ``period`` or ``interruption``.
        size_bytes: Size of the file, or of all files in the directory.
        saved_at: When it was saved, in seconds since the epoch.
        sha256: Hash of the contents; only markers on remote storage, and of checkpoints that were
            downloaded, have one.
        program: Digest of what the fit trains; see :mod:`getiaction_launch.worker.fitting.program`.
        restarts: How often the current epoch was begun anew, as its loader does not resume.
    """

    attempt: int
    fit: int
    step: int
    epoch: int
    reason: str
    size_bytes: int
    saved_at: float
    sha256: str | None = None
    program: str | None = None
    restarts: int | None = None

    @classmethod
    def read(cls, path: Path) -> "Marker | None":
        """Read the marker of the checkpoint at ``path``; None if it is missing or damaged.

        Raises:
            StorageError: If remote storage does not answer.
        """
        marker = path.with_suffix(".json")
        try:
            content = read_json(marker)
            return None if content is None else read_dataclass(Marker, content, str(marker))
        except StorageError:  # beware: taking an older checkpoint would lose training
            raise
        except (OSError, ValueError, RecordError):
            return None

    def is_of(self, other: "Marker | None") -> bool:
        """Whether both are of one checkpoint, here and on storage."""
        return other is not None and replace(self, sha256=None) == replace(other, sha256=None)

    def write(self, path: Path) -> None:
        """Commit the checkpoint at ``path``.

        Raises:
            OSError: If the disk or remote storage refuses the marker.
        """
        content = {name: value for name, value in asdict(self).items() if value is not None}
        write_json(path.with_suffix(".json"), content)


@dataclass(frozen=True)
class Checkpoint(Marker):
    """A committed checkpoint, with what its marker says.

    Attributes:
        path: Path or URL of the file; of a directory, if the training strategy is sharded.
    """

    path: Path = field(kw_only=True)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint | None":
        """Read the checkpoint at ``path``; None if it is not committed or not complete.

        Raises:
            StorageError: If remote storage does not answer.
        """
        marker = Marker.read(path)
        try:
            with reaching(path):
                if marker is None or size_bytes_of(path) != marker.size_bytes:
                    return None
        except StorageError:  # as above
            raise
        except OSError:
            return None
        return cls(**vars(marker), path=path)

    @property
    def age(self) -> tuple[int, int, int, float]:
        """What orders the checkpoints of a run, the newest one last."""
        # The clock decides only within an attempt: another one may have run on another machine.
        return self.fit, self.attempt, self.step, self.saved_at


def newest(run: Run) -> Checkpoint | None:
    """Return the committed checkpoint that the run would resume from; None if there is none."""
    return next(reversed(all_committed(run)), None)


def last_kept(run: Run) -> Path | None:
    """Return the last checkpoint of a run that has finished: the user's own, or the newest one."""
    files = [path for path in children(run.directory / "checkpoints") if path.suffix == ".ckpt"]
    if files:
        return max(files, key=modified_at)
    return committed.path if (committed := newest(run)) else None


def all_committed(run: Run) -> list[Checkpoint]:
    """Return all committed checkpoints, the newest one last."""
    markers = [path for path in children(_directory(run)) if path.suffix == ".json"]
    read = (Checkpoint.read(marker.with_suffix(".ckpt")) for marker in markers)
    return sorted(filter(None, read), key=lambda checkpoint: checkpoint.age)


def partial_path(run: Run, fit: int, step: int) -> Path:
    """Return where to write a checkpoint before it is committed; the same path on every rank."""
    return run.launch_directory / "checkpoints" / f"fit_{fit}_step_{step}.partial"


def remove_partial(run: Run) -> None:
    """Remove the unfinished files of saves that were killed.

    Beware: it also removes a checkpoint that another process is writing.

    Raises:
        OSError: If a file cannot be removed.
    """
    for path in _directory(run).glob("*.partial"):
        remove(path)


def commit(
    run: Run,
    *,
    attempt: int,
    fit: int,
    step: int,
    epoch: int,
    reason: str,
    saved_at: float,
    program: str | None = None,
    restarts: int | None = None,
) -> Checkpoint:
    """Commit the checkpoint at :func:`partial_path`, then remove all but the last two.

    Args:
        run: The run that the checkpoint belongs to.
        attempt: Number of the attempt that saved the checkpoint, from 0.
        fit: Number of the ``Trainer.fit`` call in the worker's process, from 0.
        step: Training batches of the fit so far.
        epoch: Epoch in which the checkpoint was saved, from 0.
        reason: Why it was saved: ``period`` or ``interruption``.
        saved_at: When it was saved, in seconds since the epoch.
        program: Digest of what the fit trains.
        restarts: How often the current epoch was begun anew, as its loader does not resume.

    Raises:
        OSError: If the disk refuses a write; the checkpoint is not committed then.
    """
    partial = partial_path(run, fit, step)
    path = _uncommitted_path(partial)
    size_bytes = move_into_place(partial, path)
    marker = Marker(
        attempt, fit, step, epoch, reason, size_bytes, saved_at, None, program, restarts
    )
    marker.write(path)
    sync_directory(path.parent)
    with contextlib.suppress(OSError):  # the new checkpoint is committed all the same
        _remove_all_but(run, {kept.path.stem for kept in all_committed(run)[-KEPT:]})
    return Checkpoint(**vars(marker), path=path)


def move_into_place(partial: Path, path: Path) -> int:
    """Rename a checkpoint that has been written, so that it lasts; it does not count yet.

    Args:
        partial: Path of the file or directory that has been written.
        path: Its final path. What is there is replaced, and must have no marker.

    Returns:
        Its size in bytes, for the marker.

    Raises:
        OSError: If the disk refuses a write.
    """
    for file in files_of(partial):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    if path.is_dir() or partial.is_dir():
        remove(path)  # a rename replaces files by files only
    partial.replace(path)
    sync_directory(path.parent)
    return size_bytes_of(path)


def files_of(path: Path) -> list[Path]:
    """Return the file of a local checkpoint, or all files if the checkpoint is a directory."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def size_bytes_of(path: Path) -> int:
    """Return the size of a checkpoint, here or on remote storage.

    Raises:
        OSError: If it does not exist.
        StorageError: If remote storage does not answer.
    """
    if not is_remote(path):
        return sum(file.stat().st_size for file in files_of(path))
    # In one request; and UPath's is_dir() takes a failure for a file that does not exist.
    if kind_of(path) == "directory":
        return sum(find(path).sizes.values())
    with reaching(path):
        fs, key = file_system(path)
        return int(fs.info(key)["size"])


def sync_directory(directory: Path) -> None:
    """Make renames in a directory survive a power failure, if the file system supports that."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _directory(run: Run) -> Path:
    return run.launch_directory / "checkpoints"


def _uncommitted_path(partial: Path) -> Path:
    # A step may be saved twice, and a file and its marker cannot be replaced in one step.
    names = itertools.chain([partial.stem], (f"{partial.stem}_{n}" for n in itertools.count(2)))
    paths = (partial.with_name(f"{name}.ckpt") for name in names)
    return next(path for path in paths if not Checkpoint.read(path))


def _remove_all_but(run: Run, names: set[str]) -> None:
    # Markers first: a checkpoint that is removed in part must not count.
    for path in sorted(_directory(run).iterdir(), key=lambda path: path.suffix != ".json"):
        if path.stem not in names:
            remove(path)
