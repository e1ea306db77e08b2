"""Committed checkpoints: what a run goes on from, wherever it was cut off.

A checkpoint ``launch/checkpoints/<name>.ckpt`` counts once its marker ``<name>.json`` lies beside
it. The marker is written last, when the checkpoint is whole and on the disk, and tells its size;
whatever has no fitting marker is litter. What is in a checkpoint is no matter here, so nothing
heavy is imported: a node asks for the newest one before its workers start.
"""

import contextlib
import itertools
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from getiaction_launch.errors import StorageError
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import EXIT_INTERRUPTED
from getiaction_launch.storage.paths import children, reaching, read_json, remove, write_json

KEPT = 2
"""How many committed checkpoints stay: the newest, and one in case that cannot be read."""


class Interrupted(SystemExit):
    """Training has stopped on request, all ranks at the same step, and should be taken up again."""

    def __init__(self) -> None:
        super().__init__(EXIT_INTERRUPTED)


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint.

    Attributes:
        path: A file; for a sharded strategy a directory.
        attempt: Which start of the run saved it.
        fit: Which ``Trainer.fit`` of the worker's process, from 0.
        step: Optimizer steps taken.
        epoch: The epoch it lies in, from 0.
        reason: ``period`` or ``interruption``.
        size_bytes: Of the file, or of all files in the directory.
        saved_at: Seconds since the epoch.
    """

    path: Path
    attempt: int
    fit: int
    step: int
    epoch: int
    reason: str
    size_bytes: int
    saved_at: float

    @classmethod
    def read(cls, path: Path) -> "Checkpoint | None":
        """Read what was committed at ``path``; None if nothing was, or if it is not whole."""
        try:
            marker = read_json(path.with_suffix(".json")) or {}
            names = cls.__dataclass_fields__.keys() & marker.keys()
            checkpoint = cls(path=path, **{name: marker[name] for name in names})
            with reaching(path):
                return checkpoint if _size_bytes(path) == checkpoint.size_bytes else None
        except StorageError:  # nobody knows; to train from an older one would lose what is there
            raise
        except (OSError, ValueError, TypeError, AttributeError):  # torn, or not of this making
            return None


def newest(run: Run) -> Checkpoint | None:
    """The committed checkpoint that the run goes on from; None where there is none."""
    return next(reversed(all_committed(run)), None)


def all_committed(run: Run) -> list[Checkpoint]:
    """Every checkpoint that counts, the newest last."""
    markers = [path for path in children(_directory(run)) if path.suffix == ".json"]
    read = (Checkpoint.read(marker.with_suffix(".ckpt")) for marker in markers)
    return sorted(filter(None, read), key=_age)


def partial_path(run: Run, fit: int, step: int) -> Path:
    """Where a checkpoint is written before it is committed; the same on every rank."""
    return run.launch_directory / "checkpoints" / f"fit_{fit}_step_{step}.partial"


def remove_partial(run: Run) -> None:
    """Remove what a save that was killed has left; only one process of a run may save.

    Raises:
        OSError: If that fails.
    """
    for path in _directory(run).glob("*.partial"):
        remove(path)


def commit(
    run: Run, *, attempt: int, fit: int, step: int, epoch: int, reason: str, saved_at: float
) -> Checkpoint:
    """Make the checkpoint at :func:`partial_path` count, then remove those before the last two.

    Args:
        run: Whose.
        attempt: As in :class:`Checkpoint`, and so the others.
        fit: See there.
        step: See there.
        epoch: See there.
        reason: See there.
        saved_at: See there.

    Raises:
        OSError: If the disk refuses; then the checkpoint does not count.
    """
    partial = partial_path(run, fit, step)
    path = _uncommitted_path(partial)
    _sync(partial)
    if path.is_dir():
        shutil.rmtree(path)  # a rename replaces files only
    partial.replace(path)
    sync_directory(path.parent)
    size_bytes = _size_bytes(path)
    checkpoint = Checkpoint(path, attempt, fit, step, epoch, reason, size_bytes, saved_at)
    marker = {name: value for name, value in asdict(checkpoint).items() if name != "path"}
    write_json(path.with_suffix(".json"), marker)
    sync_directory(path.parent)
    with contextlib.suppress(OSError):  # it counts, whatever else lies there
        _remove_all_but(run, {kept.path.stem for kept in all_committed(run)[-KEPT:]})
    return checkpoint


def files_of(path: Path) -> list[Path]:
    """The files of a checkpoint, which is one, or a directory of them."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def sync_directory(directory: Path) -> None:
    """Have what was renamed in it survive a power failure, where the file system can."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _directory(run: Run) -> Path:
    return run.launch_directory / "checkpoints"


def _uncommitted_path(partial: Path) -> Path:
    # A step may be saved twice, and a file and its marker are not replaced in one instant.
    names = itertools.chain([partial.stem], (f"{partial.stem}_{n}" for n in itertools.count(2)))
    paths = (partial.with_name(f"{name}.ckpt") for name in names)
    return next(path for path in paths if not Checkpoint.read(path))


def _age(checkpoint: Checkpoint) -> tuple[int, int, int, float]:
    # By the clock only within an attempt: others run on other machines.
    return checkpoint.fit, checkpoint.attempt, checkpoint.step, checkpoint.saved_at


def _remove_all_but(run: Run, names: set[str]) -> None:
    # Markers first: what is removed in part must not count.
    for path in sorted(_directory(run).iterdir(), key=lambda path: path.suffix != ".json"):
        if path.stem not in names:
            remove(path)


def _size_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in files_of(path))


def _sync(path: Path) -> None:
    for file in files_of(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
