"""Downloads of a run, or of one of its checkpoints, for ``getiaction-launch pull``."""

import contextlib
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from getiaction_launch.errors import CheckError, StorageError, UsageError, nearest_first
from getiaction_launch.mirror.transfer import download, hash_of, say_refused
from getiaction_launch.run.checkpoint import Marker, newest
from getiaction_launch.run.reading.segments import StoredFile, read_segments, stored_files
from getiaction_launch.run.reading.summary import drop_summary
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import (
    children,
    file_system,
    is_remote,
    kind_of,
    modified_at,
    reaching,
    remove,
)
from getiaction_launch.storage.tree import find, place_below

NEWEST = "newest"
NOT_COPIED = ("launch/job.json", "launch/claim", "launch/joining.json", "launch/tails/")
"""Records with which the copy would pass for the run itself, and cancelling it end the job; and
those that only say how other files lie on storage."""


def files_of_run(run: Run) -> list[StoredFile]:
    """List the files of a run on remote storage, except the records of its job.

    Objects that cannot be files of a run are left out; a line on stderr names each of them.

    Raises:
        CheckError: If the run is a local directory.
        StorageError: If storage does not answer.
    """
    _check_remote(run)
    found = find(run.directory)
    for name, reason in found.refused.items():
        say_refused(name, reason)
    files = stored_files(run, found.sizes)
    return [file for file in files if not file.path.startswith(NOT_COPIED)]


def pull_run(run: Run, target: Path, watch: Callable[[int, int], None]) -> None:
    """Download a run, so that it looks like one that was trained in a directory.

    Objects that cannot be files below the target are left out; a line on stderr names each of them.

    Args:
        run: The run to download; its directory is a URL.
        target: Directory to create; it must not exist.
        watch: Called with the bytes that were downloaded so far, and the total.

    Raises:
        CheckError: If the target exists, or the run is a local directory.
        StorageError: If a download fails.
    """
    files = files_of_run(run)
    if target.exists():
        raise _already_exists(run, target)
    fs, root = file_system(run.directory)
    # A download that is interrupted must not leave what looks like the whole run.
    arriving = target.with_name(f".{target.name}.partial")
    remove(arriving)
    arriving.mkdir(parents=True)
    places: dict[str, Path] = {}
    for file in files:  # all before the first download, and by one thread: names may be the same
        with _saying_refused(file.path):
            places[file.path] = place_below(arriving, file.path, create=True)
    files = [file for file in files if file.path in places]
    total, done, one_by_one = sum(file.size_bytes for file in files), 0, threading.Lock()

    def download_file(file: StoredFile) -> None:
        nonlocal done
        place = places[file.path]
        first, *others = file.segments
        if others:
            with place.open("wb") as whole:
                whole.writelines(read_segments(run, file))
        else:
            with reaching(run.directory):
                fs.get_file(f"{root}/{first}", str(place))  # of any size
        with one_by_one:
            done += file.size_bytes
            watch(done, total)

    for_each(download_file, files, run.directory)
    drop_summary(Run(arriving))
    arriving.rename(target)


@contextlib.contextmanager
def _saying_refused(name: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        say_refused(name, str(error))


def find_checkpoint(run: Run, name: str) -> Path:
    """Find one checkpoint of a run.

    Args:
        run: The run that has the checkpoint.
        name: Name of a file in ``checkpoints/``, with or without ``.ckpt``, or one of:
            :data:`NEWEST` for the one that was uploaded or, in a directory, saved last: one of
            these, or the checkpoint that the run would resume from; ``last`` for ``last.ckpt``, or
            else the newest; ``best`` for the only one that a ``ModelCheckpoint`` has kept.

    Returns:
        The path or URL of the checkpoint.

    Raises:
        UsageError: If the run has no such checkpoint, or several may be the best.
        CheckError: If the run is a local directory without any checkpoint.
    """
    there = {path.name: path for path in children(run.directory / "checkpoints")}
    found = there.get(name) or there.get(f"{name}.ckpt")
    if found is None and name in (NEWEST, "last"):
        found = _latest(run, list(there.values()))
    kept = [other for other in there if not other.startswith("last")]
    if found is None and name == "best" and len(kept) == 1:
        found = there[kept[0]]
    if found is None:
        _latest(run, list(there.values()))  # whether there is any
        several = "none of these is marked as the best" if kept and name == "best" else None
        raise UsageError(
            f"--checkpoint {name}: {several or f'run {run.name} has no checkpoint of that name'}.",
            nearest_first(name, [*there, NEWEST]),
        )
    return found


def pull_checkpoint(run: Run, name: str, target: Path) -> Path:
    """Copy one checkpoint of a run.

    Args:
        run: The run that has the checkpoint.
        name: Name of the checkpoint, as :func:`find_checkpoint` takes it.
        target: Directory to put it in; it is created if it does not exist.

    Returns:
        The path of the copy.

    Raises:
        UsageError: If the run has no checkpoint of that name.
        CheckError: If the target has a file of that name or cannot be created, or the run is a
            local directory without any checkpoint.
        StorageError: If the download fails, or the checkpoint is damaged.
    """
    source = find_checkpoint(run, name)
    marker = Marker.read(source)
    place = target / source.name
    if place.exists():
        raise _already_exists(run, place)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckError(
            f"{target} cannot be created: {error.strerror}.", "Name another directory for the copy."
        ) from error
    arriving = place.with_name(f".{place.name}.partial")
    if is_remote(source):
        download(source, arriving)
    elif source.is_dir():
        shutil.copytree(source, arriving)
    else:
        shutil.copyfile(source, arriving)
    if marker and marker.sha256 and hash_of(arriving) != marker.sha256:
        raise StorageError(f"{source} is damaged: its contents are not those that were saved.")
    arriving.replace(place)
    return place


def _check_remote(run: Run) -> None:
    if not is_remote(run.directory):
        raise CheckError(
            f"run {run.name} is a local directory already: {run.directory}.",
            f"To copy it: cp -r {shlex.quote(str(run.directory))} DIR",
        )


def _already_exists(run: Run, place: Path) -> CheckError:
    fix = f"Choose another directory: getiaction-launch pull {run.directory} DIR"
    return CheckError(f"{place} already exists.", fix)


def _latest(run: Run, files: list[Path]) -> Path:
    """Return what was saved last: one of ``files``, or the newest committed checkpoint."""
    uploaded_at = {path: _saved_at(path) for path in files}
    if committed := newest(run):  # short runs have none
        uploaded_at[committed.path] = modified_at(committed.path.with_suffix(".json"))
    if not uploaded_at and not is_remote(run.directory):
        raise CheckError(
            f"run {run.name} is a local directory already: {run.directory}. "
            "It has saved no checkpoint yet.",
            f"See how far it is: getiaction-launch status {run.directory}",
        )
    if not uploaded_at:
        raise UsageError(
            f"run {run.name} has saved no checkpoint yet.",
            f"See how far it is: getiaction-launch status {run.directory}",
        )
    return max(uploaded_at, key=uploaded_at.__getitem__)


def _saved_at(path: Path) -> float:
    if not is_remote(path) or kind_of(path) == "file":
        return modified_at(path)
    return max((modified_at(path / part) for part in find(path).sizes), default=0)
