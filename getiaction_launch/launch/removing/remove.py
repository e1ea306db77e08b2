"""Removes a run: its directory or objects, and nothing else.

``launch/plan.json`` is what makes a directory a run, and it is removed last: what was interrupted
is still found, and can be removed again.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from getiaction_launch.errors import CheckError, RunNotFoundError, disk_errors
from getiaction_launch.launch.finding.find import find_runs
from getiaction_launch.launch.listing.below import VERSION
from getiaction_launch.launch.status import read_status
from getiaction_launch.launch.trust import check_owner
from getiaction_launch.run.run import REMOVING, Run, check_staging
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import (
    file_system,
    is_remote,
    kind_of,
    open_path,
    reaching,
    remove,
)
from getiaction_launch.storage.tree import remove_all

_LAST = ("plan.json", f"{REMOVING}.json", "claim")
"""What is removed last, in this order: it says that the rest is a run, and whose number it has."""


def find_removable(names: Sequence[str], root: str) -> list[Run]:
    """Find all runs that are named, each once, also those that were removed in part.

    Args:
        names: Directories, URLs, ``name/version_N``, ``@last``, or sweeps as ``ls`` shows them.
        root: Path or URL of the directory in which to look.

    Raises:
        RunNotFoundError: If a name means neither a run nor the rest of one.
    """
    found: dict[str, Run] = {}
    for name in names:
        try:
            runs = find_runs([name], [root])
        except RunNotFoundError:
            runs = list(_rest_of(name, root))
            if not runs:
                raise
        found.update((str(run.directory), run) for run in runs)
    return list(found.values())


def _rest_of(name: str, root: str) -> Iterator[Run]:
    """Yield what is left of a run without its plan: a ``version_N`` that has a ``launch``."""
    here = [] if "://" in name else [open_path(root) / name]
    for directory in (open_path(name), *here):
        if VERSION.fullmatch(directory.name) and kind_of(directory / "launch") == "directory":
            place = directory if is_remote(directory) else Path(os.path.abspath(directory))  # noqa: PTH100 - links stay as typed
            yield Run(place)
            return


def check_removable(run: Run, *, force: bool = False, trust: bool = False) -> JobState:
    """Check that a run may be removed; return its state.

    Args:
        run: The run to remove.
        force: Whether it may be removed if nobody can say whether its job still runs.
        trust: Whether another user's run may be removed.

    Raises:
        CheckError: If the run may still run, belongs to another user, or is elsewhere by a link.
    """
    if not is_remote(run.directory):
        root, place = (os.path.realpath(p) for p in (run.directory.parents[1], run.directory))
        if run.directory.is_symlink() or not Path(place).is_relative_to(root):
            raise CheckError(
                f"run {run.name} is reached by a link that leads to {place}.",
                f"To remove the run there: getiaction-launch rm {place}",
            )
    if not trust:
        check_owner(run, "rm")
    status = read_status(run)
    is_doubtful = status.state is JobState.UNKNOWN or not status.is_certain or not status.job
    if status.state.is_over or (is_doubtful and (force or run.read(REMOVING) is not None)):
        return status.state
    why = f" ({status.reason})" if status.reason else ""
    fix = f"End it first: getiaction-launch cancel {run.directory}"
    if is_doubtful:
        fix += f"\nIf nothing of it runs any more: getiaction-launch rm --force {run.directory}"
    raise CheckError(f"run {run.name} is {status.state.value}{why}; it is not removed.", fix)


def size_bytes(run: Run) -> int:
    """Return the size of all files of a run, in bytes; of links, their own.

    Raises:
        StorageError: If remote storage does not answer.
    """
    if is_remote(run.directory):
        return sum(_objects(run.directory).values())
    total = 0
    for folder, _, files in os.walk(run.directory):
        for name in files:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += Path(folder, name).lstat().st_size
    return total


@disk_errors()
def remove_run(run: Run, *, force: bool = False, trust: bool = False) -> None:
    """Remove a run that has ended, with everything in its directory.

    Args:
        run: The run to remove.
        force: Whether to remove it also if nobody can say whether its job still runs.
        trust: Whether to remove the run of another user.

    Raises:
        CheckError: If the run may still run, belongs to another user, or is elsewhere by a link.
        OSError: If something cannot be removed. Then the run can still be found and removed again.
    """
    check_removable(run, force=force, trust=trust)
    if kind_of(run.launch_directory) == "directory":
        run.write(REMOVING, {}, durable=False)
    if not is_remote(run.directory):
        _remove_directory(run.directory)
        return
    _remove_objects(run.directory)
    with contextlib.suppress(CheckError):  # another user's, which is left alone
        check_staging(run)
        shutil.rmtree(run.local.directory, ignore_errors=True)


def _remove_directory(directory: Path) -> None:
    # Beware: by descriptors, so that nobody can put a link in the place of one of the two.
    with _opened(directory) as (here, descriptor):
        _clear(here, ["launch"])
        try:
            with _opened(directory / "launch", descriptor) as (launch, _):
                _clear(launch, _LAST)
                for name in _LAST:
                    remove(launch / name)
            os.rmdir("launch", dir_fd=descriptor)
        except NotADirectoryError:  # a file or a link
            os.unlink("launch", dir_fd=descriptor)
        except FileNotFoundError:
            pass
    directory.rmdir()
    with contextlib.suppress(OSError):  # other versions are in it
        directory.parent.rmdir()


@contextlib.contextmanager
def _opened(directory: Path, parent: int | None = None) -> Iterator[tuple[Path, int]]:
    """Open a directory that is not a link; yield a path that always leads there, and the number."""
    name = directory if parent is None else directory.name
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    here = Path(f"/proc/self/fd/{descriptor}")
    try:
        yield here, descriptor
    except OSError as error:
        error.filename = str(error.filename).replace(str(here), str(directory))
        raise
    finally:
        os.close(descriptor)


def _clear(directory: Path, kept: Sequence[str]) -> None:
    for name in os.listdir(directory):  # noqa: PTH208 - names only
        if name not in kept:
            remove(directory / name)


def _objects(directory: Path) -> dict[str, int]:
    """Return the size of each object of a run, by its key."""
    with reaching(directory):
        fs, root = file_system(directory)
        found = fs.find(root, detail=True)
    prefix = f"{root.rstrip('/')}/"
    return {key: int(info["size"] or 0) for key, info in found.items() if key.startswith(prefix)}


def _remove_objects(directory: Path) -> None:
    _, root = file_system(directory)
    last = [f"{root.rstrip('/')}/launch/{name}" for name in _LAST]
    keys = _objects(directory).keys()
    remove_all(directory, list(keys - set(last)))
    for key in last:
        if key in keys:
            remove_all(directory, [key])
