"""Checkpoints written in the background, so that training waits for a copy in memory alone.

Lightning's ``AsyncCheckpointIO`` has a queue without an end, removes the old file before the new
one is there, and tells of a failed write at some later save or never. Here at most one state of
the training is in memory, all that happens to files happens in the order in which it was asked
for, and a fit does not end before the last file is in its place.
"""

import contextlib
import functools
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from getiaction_launch.errors import CheckError
from getiaction_launch.run.checkpoint import sync_directory
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import remove
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.snapshot import Snapshot, SnapshotMemory

RETRY_SECONDS = (1.0, 3.0, 9.0)
"""Pauses before a write that the disk has refused is tried again."""
_LASTING = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Refusals that no pause will change."""
_MOST_SAVES = 4
"""So many saves of one state may wait to be written; further ones wait themselves."""


@dataclass
class SaveRequest:
    """What happens to one checkpoint after its state is copied.

    The launcher passes it as ``storage_options`` to ``Trainer.save_checkpoint``, which hands it to
    the ``CheckpointIO`` unchanged.

    Attributes:
        finish: Called once the file is written durably; commits it, or moves it into place.
        fail: Called with the reason if the file cannot be written or ``finish`` fails.
        progress: What to add to the run's progress as soon as the state is copied.
        is_taken: Whether the ``CheckpointIO`` has done all that the caller must wait for.
        is_finished: Whether ``finish`` has succeeded.
    """

    finish: Callable[[], None]
    fail: Callable[[Exception], None]
    progress: Mapping[str, Any] = field(default_factory=dict)
    is_taken: bool = False
    is_finished: bool = False


class BackgroundCheckpointIO(CheckpointIO):
    """Takes a snapshot of what is to be saved and leaves the rest to one thread.

    Args:
        base: Reads checkpoints, and writes those that do not lie in a file system.
        progress: Where it says whether a checkpoint is being written, and what failed.
        run: In its directory, what killed writes have left is removed.
        can_wait: Whether nobody reads a file before the fit ends. Any other is written when
            :meth:`save_checkpoint` returns.
        resumed_from: A checkpoint that is not removed.
    """

    def __init__(
        self,
        base: CheckpointIO,
        progress: ProgressReport,
        run: Run,
        can_wait: Callable[[Path], bool],
        resumed_from: Path | None = None,
    ) -> None:
        self._base, self._progress, self._run, self._can_wait = base, progress, run, can_wait
        self._resumed_from = resumed_from and resumed_from.resolve()
        self._memory = SnapshotMemory()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._last: Future[None] | None = None
        self._expected: dict[str, tuple[Future[None], bool]] = {}
        self._lock = threading.Lock()
        self._num_saves = 0
        self._swept: set[Path] = set()
        self._failure: CheckError | None = None

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - as in CheckpointIO
    ) -> None:
        """Save a checkpoint of the user's, or with a :class:`SaveRequest` one of the launcher's.

        Raises:
            CheckError: If this one, or one that was left to the thread, could not be written.
        """
        if isinstance(storage_options, SaveRequest):
            self.save_later(checkpoint, Path(path), storage_options)
            return
        if storage_options is not None or is_url(path):
            self.wait()
            self._base.save_checkpoint(checkpoint, path, storage_options)
            return
        self.raise_failure()
        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        request = SaveRequest(
            finish=functools.partial(_move, partial, target),
            fail=functools.partial(self._fail, target),
        )
        snapshot = self._take(checkpoint)
        self.raise_failure()  # an earlier save may have failed while this one waited for it
        future = self._start(snapshot, partial, request)
        self._expected[_name(target)] = future, True
        if not self._can_wait(target):
            future.result()
            self.raise_failure()

    def save_later(
        self,
        checkpoint: dict[str, Any],
        partial: Path,
        request: SaveRequest,
    ) -> "Future[None]":
        """Take a snapshot and have it written.

        If an earlier one is still being written this waits for that first, unless both are of the
        same state.

        Args:
            checkpoint: What to save.
            partial: Where the thread writes it, durably; it lies beside where the file is to be.
            request: What the thread does then.

        Returns:
            What is done when either has been.
        """
        return self._start(self._take(checkpoint), partial, request)

    def _take(self, checkpoint: dict[str, Any]) -> Snapshot:
        if self._num_saves >= _MOST_SAVES:
            self.wait()
        return self._memory.take(checkpoint, self.wait if self._num_saves else None)

    def _start(self, snapshot: Snapshot, partial: Path, request: SaveRequest) -> "Future[None]":
        # Before the thread begins: the two would wait for each other.
        self._count(1, **request.progress)
        future = self._submit(functools.partial(self._write, snapshot, partial, request))
        request.is_taken = True
        return future

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint after all that was to be saved before it."""
        if is_url(path):
            self.wait()
            self._base.remove_checkpoint(path)
            return
        if Path(path).resolve() != self._resumed_from:
            self._change(Path(path), remove, exists=False)

    def link(self, path: Path, link: Path) -> None:
        """Have ``link`` name the checkpoint at ``path``, after that has been written."""
        if _name(link) != _name(path):
            self._change(link, functools.partial(_replace_by_link, path), exists=True)

    def load_checkpoint(self, path: str | Path, *args: Any, **words: Any) -> Any:  # noqa: ANN401 - as in CheckpointIO
        """Read a checkpoint, once it has been written."""
        self.wait()
        return self._base.load_checkpoint(path, *args, **words)

    def exists(self, path: str | Path) -> bool | None:
        """Whether a file will be there when all has been done that was asked for; None for URLs."""
        if is_url(path):
            return None
        future, exists = self._expected.get(_name(Path(path)), (None, False))
        return Path(path).exists() if future is None or future.done() else exists

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is waiting to be written or is being written."""
        return self._num_saves > 0

    def wait(self) -> None:
        """Wait until all has been done that was asked for."""
        if self._last:
            self._last.result()

    def teardown(self) -> None:
        """Wait; Lightning calls it when a fit ends, in whatever way."""
        self.wait()

    def close(self) -> None:
        """Wait, and end the thread."""
        self._thread.shutdown()

    def raise_failure(self) -> None:
        """Raise what kept a checkpoint of the user's from being written or removed.

        Raises:
            CheckError: That, with the path.
        """
        if self._failure:
            raise self._failure

    def _change(self, path: Path, change: Callable[[Path], None], *, exists: bool) -> None:
        act = functools.partial(self._try_to_change, path, change)
        self._expected[_name(path)] = self._submit(act), exists

    def _try_to_change(self, path: Path, change: Callable[[Path], None]) -> None:
        if self._failure:
            return  # what it was to replace is not there
        try:
            change(path)
        except OSError as error:
            self._fail(path, error)

    def _submit(self, act: Callable[[], None]) -> "Future[None]":
        self._expected = {
            name: entry for name, entry in self._expected.items() if not entry[0].done()
        }
        self._last = self._thread.submit(act)
        return self._last

    def _write(self, snapshot: Snapshot, partial: Path, request: SaveRequest) -> None:
        try:
            for pause_seconds in RETRY_SECONDS:
                error = self._try_to_write(snapshot, partial, request)
                if not isinstance(error, OSError) or isinstance(error, _LASTING):
                    break
                say(f"{partial.name}: {error}; trying again in {pause_seconds:g} s")
                time.sleep(pause_seconds)
            else:
                error = self._try_to_write(snapshot, partial, request)
            if error:
                request.fail(error)
        finally:
            self._count(-1)

    def _try_to_write(
        self, snapshot: Snapshot, partial: Path, request: SaveRequest
    ) -> Exception | None:
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            self._sweep(partial.parent)
            write(snapshot, partial)
            request.finish()
            request.is_finished = True
        except Exception as error:  # noqa: BLE001 - the user's objects may raise anything
            with contextlib.suppress(OSError):  # a full disk needs the room
                partial.unlink(missing_ok=True)
            return _cause(error)
        return None

    def _sweep(self, directory: Path) -> None:
        """Once, remove what writes of earlier attempts have left; other runs' may be alive."""
        if directory in self._swept or self._run.directory not in directory.absolute().parents:
            return
        self._swept.add(directory)
        for path in directory.glob(".*.partial"):
            path.unlink()

    def _fail(self, path: Path, error: Exception) -> None:
        words = f"{type(error).__name__}: {error}"
        say(f"the checkpoint {path} could not be saved: {words}")
        self._progress.update(checkpoint_error=words)
        self._failure = CheckError(
            f"the checkpoint {str(path)!r} could not be saved: {words}",
            f"Make {path.parent} writable, with room in it, and go on from the last committed "
            f"checkpoint: getiaction-launch resume {self._run.directory}",
        )
        self._failure.__cause__ = error

    def _count(self, change: int, **news: Any) -> None:  # noqa: ANN401 - JSON values
        with self._lock:
            self._num_saves += change
            self._progress.update(is_writing_checkpoint=self._num_saves > 0, **news)


def write(snapshot: Snapshot, path: Path) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        torch.save(snapshot.content(), file)
        file.flush()
        os.fsync(file.fileno())


def _move(partial: Path, target: Path) -> None:
    partial.replace(target)
    sync_directory(target.parent)


def _replace_by_link(path: Path, link: Path) -> None:
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(path, link.parent))
    except OSError:  # not every file system has links
        shutil.copy(path, temporary)
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    temporary.replace(link)


def is_url(path: str | Path) -> bool:
    """Whether a checkpoint lies where only its ``CheckpointIO`` can reach it."""
    return "://" in str(path)


def _name(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - a link is not what it leads to


def _cause(error: Exception) -> Exception:
    """The disk's own refusal, if that was it: torch covers it by an error of its own."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error
