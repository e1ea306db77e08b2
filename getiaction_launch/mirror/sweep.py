"""Removes what runs that are over have left in this machine's staging directories.

A run removes its staging directory when it finishes. That of a run which was started here and
continued on another machine, or was given up, would stay for ever; so would the copy of the code of
a node that was killed.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.errors import LaunchError
from getiaction_launch.mirror.ledger import (
    COMMITTED,
    LANES,
    Head,
    Ledger,
    Segmented,
    Whole,
    lane_of,
)
from getiaction_launch.mirror.transfer import say
from getiaction_launch.mirror.uploading.walk import walk
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.attempt import is_only_here, read_end
from getiaction_launch.run.checkpoint import Marker, newest
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children
from getiaction_launch.storage.rotation import end_of
from getiaction_launch.storage.segment import cut

IDLE_SECONDS = 3600.0
"""How long nothing may have changed in a directory before it is looked at."""
UNSAVED_SECONDS = 30 * 86400.0
"""How long files stay that storage does not have."""
CODE_PREFIX = "code-"
"""How the name of a directory begins that holds a copy of code."""
_TRASH = ".removed-"


def sweep_code(root: Path) -> None:
    """Remove old copies of code that killed nodes have left; storage is not asked about them.

    Args:
        root: The directory of this machine's staging directories.
    """
    for trash in root.glob(f"{_TRASH}{CODE_PREFIX}*"):
        shutil.rmtree(trash, ignore_errors=True)
    for place in root.glob(f"{CODE_PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, LaunchError):  # another time, then
            _sweep(root, place)


def sweep(root: Path, own: Run) -> None:
    """Remove old staging directories. A run that may still need its own keeps it.

    A directory is removed if nothing uses it, nothing in it has changed for an hour, its run is
    over or has another attempt on another machine, and all its files are on storage. Other files
    stay for 30 days. What storage cannot be asked about stays, too.

    Args:
        root: The directory of this machine's staging directories.
        own: The copy that is in use here.
    """
    for place in children(root):
        if place.name.startswith(_TRASH):
            shutil.rmtree(place, ignore_errors=True)
        elif place not in own.directory.parents:
            with contextlib.suppress(OSError, ValueError, LaunchError):  # another time, then
                _sweep(root, place)


def _sweep(root: Path, place: Path) -> None:
    is_code = place.name.startswith(CODE_PREFIX)
    locals_ = [] if is_code else [Run(path) for path in place.glob("*/version_*")]
    with _alone(place) as is_alone:
        idle_seconds = time.time() - max(_times(place))
        if not is_alone or idle_seconds < IDLE_SECONDS:
            return
        reasons = [_why_kept(local, idle_seconds) for local in locals_]
        for reason in filter(None, reasons):
            say(f"{place} is kept: {reason}")
        if any(reason is not None for reason in reasons):
            return
        # Renamed first: a directory that is removed in part would look like one with unsaved files.
        trash = root / f"{_TRASH}{place.name}-{os.getpid()}"
        place.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
    say(f"removed {place}, which an earlier run has left")


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[bool]:
    """Lock a directory against attempts, which hold a shared lock; yields whether that worked."""
    descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def _times(place: Path) -> Iterator[float]:
    yield place.lstat().st_mtime
    for path in place.rglob("*"):
        yield path.lstat().st_mtime


def _why_kept(local: Run, idle_seconds: float) -> str | None:
    """Return why a copy must stay; empty if that is not worth a line; None if it may go."""
    run = _run_of(local)
    if run is None or run.read("plan") is None:
        has_files = any(stat.st_size for stat in walk(local.directory).files.values())
        return "" if has_files and idle_seconds < UNSAVED_SECONDS else None
    end, head = read_end(run), Head.read(local)
    latest = max(head.attempt or 0, head.prepared or 0)
    has_moved = latest < len(end.attempts) - 1
    if (end.ending is None and not has_moved) or is_only_here(run):
        return ""
    unsaved = [*unsaved_files(local), *_unsaved_checkpoint(run, local)]
    if not unsaved or idle_seconds >= UNSAVED_SECONDS:
        return None
    return f"storage does not have {', '.join(unsaved[:3])}"


def _run_of(local: Run) -> Run | None:
    """Find out which URL a copy is of; None if it has no plan that says so."""
    if local.read("plan") is None:
        return None
    plan = Plan.of(local)
    run = Run.at(f"{plan.root}/{plan.name}/{local.directory.name}")
    # The directory's name is made from the URL.
    return run if run.local.directory.parents[1].name == local.directory.parents[1].name else None


def unsaved_files(local: Run) -> list[str]:
    """List the files of a staging directory that were not uploaded, except committed checkpoints.

    Args:
        local: The run in the staging directory.
    """
    known = {p: entry for lane in LANES for p, entry in Ledger(local.directory, lane).files.items()}
    tree = walk(local.directory)
    return [
        *tree.refused,
        *(
            path
            for path, stat in tree.files.items()
            if lane_of(path) and not _is_saved(local.directory / path, stat, known.get(path))
        ),
    ]


def _is_saved(file: Path, stat: os.stat_result, entry: Whole | Segmented | None) -> bool:
    if isinstance(entry, Segmented):
        return entry.is_there and cut(file, entry.end, end_of(file)) == entry.end
    return stat.st_size == 0 if entry is None else entry == Whole.of(stat)


def _unsaved_checkpoint(run: Run, local: Run) -> list[str]:
    mine, stored = newest(local), newest(run)
    if mine is None or (stored and stored.age >= mine.age):
        return []
    marker = Marker.read(mine.path)
    is_stored = marker and marker.is_of(Marker.read(run.directory / COMMITTED / mine.path.name))
    return [] if is_stored else [f"{COMMITTED}/{mine.path.name}"]
