"""Writes checkpoints in the background, so that training waits only for a copy in memory.

Lightning's ``AsyncCheckpointIO`` has an unbounded queue, removes old files before new ones exist,
and reports a failed write late or never. Here memory holds at most one state of the training, files
change in the order of the requests, and a fit does not end before its last file is in place.
"""

import contextlib
import functools
import operator
import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from getiaction_launch.errors import CheckError
from getiaction_launch.mirror.kept import await_kept, is_to_arrive
from getiaction_launch.mirror.removals import record_removal
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import remove
from getiaction_launch.worker.lightning_seams import LightningState
from getiaction_launch.worker.progress import ProgressReport, say
from getiaction_launch.worker.saving.placing import move, replace_by_link
from getiaction_launch.worker.saving.snapshot import Snapshot, SnapshotMemory

RETRY_SECONDS = (1.0, 3.0, 9.0)
"""Pauses before a write that the disk has refused is retried."""
_LASTING = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors that a retry would meet again."""
SMALL_BYTES = 16 * 2**20
"""A state of this size is on the disk within moments, so training waits for that."""
SMALL_SECONDS = 2.0
"""Longest time that training waits for a small file."""
_torch_save = torch.save  # programs that replace it mean their own checkpoints
_MAX_SAVES = 4
"""How many saves of the same state may be pending; further ones wait."""


@dataclass
class SaveRequest:
    """What happens to one checkpoint after its state has been copied.

    The launcher passes it as ``storage_options`` to ``Trainer.save_checkpoint``, which hands it to
    the ``CheckpointIO`` unchanged.

    Attributes:
        finish: Called once the file is written durably; commits it, or moves it into place.
        fail: Called with the reason if the file cannot be written or ``finish`` fails.
        progress: What to add to the run's progress as soon as the state has been copied.
        is_taken: Whether the ``CheckpointIO`` has done everything that training must wait for.
        is_finished: Whether ``finish`` has succeeded.
        is_hidden: Whether a program that replaces Lightning's or torch's save must not notice.
    """

    finish: Callable[[], None]
    fail: Callable[[Exception], None]
    progress: Mapping[str, Any] = field(default_factory=dict)
    is_taken: bool = False
    is_finished: bool = False
    is_hidden: bool = False


class BackgroundCheckpointIO(CheckpointIO):
    """Copies the state that is to be saved, and leaves the rest to one thread.

    Args:
        base: Reads checkpoints, and writes those that are not in a file system.
        progress: Reports whether a checkpoint is being written, and what failed.
        run: The run; leftovers of interrupted writes are removed in its directory only.
        can_wait: Whether a file may be written later, since nobody reads it before the fit ends.
            Any other file is complete when :meth:`save_checkpoint` returns.
        resumed_from: A checkpoint that is never removed.
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Become the base in copies and pickles of a Trainer: this one serves one fit."""
        return operator.itemgetter(0), ((self._base,),)

    def save_checkpoint(
        self,
        checkpoint: LightningState,
        path: str | Path,
        storage_options: Any = None,  # noqa: ANN401 - as in CheckpointIO
    ) -> None:
        """Save a checkpoint: the launcher's with a :class:`SaveRequest`, otherwise the user's.

        Raises:
            CheckError: If this one, or an earlier one of the user's, could not be written.
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
            finish=functools.partial(move, partial, target),
            fail=functools.partial(self._fail, target),
        )
        snapshot = self._take(checkpoint)
        self.raise_failure()  # an earlier save may have failed while this one waited for it
        future = self._start(snapshot, partial, request)
        self._expected[_name(target)] = future, True
        if not self._can_wait(target):
            future.result()
            self.raise_failure()
        elif sum(storage.nbytes() for storage in snapshot.storages) < SMALL_BYTES:
            # The user's hooks may look at it, as they could without the launcher.
            wait([future], SMALL_SECONDS)

    def save_later(
        self, checkpoint: LightningState, partial: Path, request: SaveRequest
    ) -> "Future[None]":
        """Copy a state and write it in the background.

        If an earlier one is still being written this waits for it, unless both are the same state.

        Args:
            checkpoint: The content of the checkpoint.
            partial: Where to write it; must be in the directory of the final file.
            request: What to do once it is written, or cannot be written.

        Returns:
            A future that is done once the request has been finished or has failed.
        """
        return self._start(self._take(checkpoint), partial, request)

    def _take(self, checkpoint: LightningState) -> Snapshot:
        if self._num_saves >= _MAX_SAVES:
            self.wait()
        return self._memory.take(checkpoint, self.wait if self._num_saves else None)

    def _start(self, snapshot: Snapshot, partial: Path, request: SaveRequest) -> "Future[None]":
        # Count before the thread begins, so that the two never wait for each other.
        self._count(1, **request.progress)
        future = self._submit(functools.partial(self._write, snapshot, partial, request))
        request.is_taken = True
        return future

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, after everything that was to be saved before it."""
        if is_url(path):
            self.wait()
            self._base.remove_checkpoint(path)
            return
        if Path(path).resolve() != self._resumed_from:
            self._change(Path(path), self._remove, exists=False)

    def _remove(self, path: Path) -> None:
        remove(path)
        record_removal(self._run.directory, Path(_name(path)))
        if path.exists():  # it has arrived in this moment
            self._remove(path)

    def link(self, path: Path, link: Path) -> None:
        """Make ``link`` a link to the checkpoint at ``path``, after that has been written."""
        if _name(link) != _name(path):
            self._change(link, functools.partial(replace_by_link, path), exists=True)

    def load_checkpoint(self, path: str | Path, *args: Any, **words: Any) -> Any:  # noqa: ANN401 - as in CheckpointIO
        """Read a checkpoint, after everything has been written, and this one has arrived."""
        self.wait()
        await_kept(self._run.directory, path)
        return self._base.load_checkpoint(path, *args, **words)

    def exists(self, path: str | Path) -> bool | None:
        """Whether a file will exist when all requests are done; None for a URL."""
        if is_url(path):
            return None
        future, exists = self._expected.get(_name(Path(path)), (None, False))
        if future is not None and not future.done():
            return exists
        return Path(path).exists() or is_to_arrive(self._run.directory, path)

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written, or waits to be written."""
        return self._num_saves > 0

    def wait(self) -> None:
        """Wait until all requests are done."""
        if self._last:
            self._last.result()

    def teardown(self) -> None:
        """Wait until all requests are done; Lightning calls this however a fit ends."""
        self.wait()

    def close(self) -> None:
        """Wait until all requests are done, and end the thread."""
        self._thread.shutdown()

    def raise_failure(self) -> None:
        """Fail if a checkpoint of the user's could not be written or removed.

        Raises:
            CheckError: If so; it names the path and the error of the disk.
        """
        if self._failure:
            raise self._failure

    def _change(self, path: Path, change: Callable[[Path], None], *, exists: bool) -> None:
        act = functools.partial(self._try_to_change, path, change)
        self._expected[_name(path)] = self._submit(act), exists

    def _try_to_change(self, path: Path, change: Callable[[Path], None]) -> None:
        if self._failure:
            return  # the file that was to replace this one is missing
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
                say(f"{partial.name}: {error}; retrying in {pause_seconds:g} s")
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
            if request.is_hidden:
                write(snapshot, partial, save=_torch_save)
            else:
                write(snapshot, partial)
            request.finish()
            request.is_finished = True
        except Exception as error:  # noqa: BLE001 - the user's objects may raise anything
            with contextlib.suppress(OSError):  # a full disk needs the space
                partial.unlink(missing_ok=True)
            return _cause(error)
        return None

    def _sweep(self, directory: Path) -> None:
        """Once, remove what interrupted writes of earlier attempts have left.

        Other directories than the run's may hold files that another run is writing.
        """
        if directory in self._swept or self._run.directory not in directory.absolute().parents:
            return
        self._swept.add(directory)
        for path in directory.glob(".*.partial"):
            path.unlink()

    def _fail(self, path: Path, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        say(f"the checkpoint {path} could not be saved: {reason}")
        self._progress.update(checkpoint_error=reason)
        self._failure = CheckError(
            f"the checkpoint {str(path)!r} could not be saved: {reason}",
            f"Make {path.parent} writable, with enough free space, and resume from the last "
            f"committed checkpoint: getiaction-launch resume {self._run.directory}",
        )
        self._failure.__cause__ = error

    def _count(self, change: int, **progress: Any) -> None:  # noqa: ANN401 - JSON values
        with self._lock:
            self._num_saves += change
            self._progress.update(is_writing_checkpoint=self._num_saves > 0, **progress)


def write(
    snapshot: Snapshot, path: Path, save: Callable[[object, Any], None] | None = None
) -> None:
    """Write a file that is on the disk when this returns."""
    with path.open("wb") as file:
        (save or torch.save)(snapshot.content(), file)
        file.flush()
        os.fsync(file.fileno())


def is_url(path: str | Path) -> bool:
    """Whether only the base ``CheckpointIO`` can reach a checkpoint."""
    return "://" in str(path)


def _name(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - a link is not the file that it leads to


def _cause(error: Exception) -> Exception:
    """Find the disk's own error, which torch may cover with one of its own."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, OSError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error
