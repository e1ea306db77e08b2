"""The copy of the user's code on one node: unpacked before workers start, removed when they end.

It lies in a private directory of the node, under the same path on every node and in every attempt.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.errors import CheckError, StorageError
from getiaction_launch.mirror.sweep import CODE_PREFIX, sweep_code
from getiaction_launch.mirror.transfer import download, hash_of
from getiaction_launch.plan.code import MOST_MB, Code
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.run import Run, make_private, staging_root
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.paths import is_remote, kind_of, open_path
from getiaction_launch.storage.tree import place_below
from getiaction_launch.storage.untrusted import open_regular

MOST_REMOVALS = 100
"""How often other nodes may remove a directory in the moment in which it is made here."""
_PARTIAL = ".partial"


@contextlib.contextmanager
def unpacked(run: Run, plan: Plan, here: str) -> Iterator[Path | None]:
    """Have the copy of a run's code on this node while the context lasts.

    Args:
        run: The run whose workers are about to start.
        plan: The plan of this run.
        here: Where the plan's working directory is on this machine.

    Yields:
        The directory that holds the copy; None if the run has none.

    Raises:
        CheckError: If the copy is missing or damaged, or another user may write to its directory.
        StorageError: If it cannot be downloaded.
    """
    if plan.code is None or plan.code.archive is None:
        yield None
        return
    make_private(staging_root())
    place = staging_root() / f"{CODE_PREFIX}{_key(plan.code, here)}"
    tree = place / plan.code.folder
    descriptor = -1
    while not tree.is_dir() or descriptor < 0 or not _is_open(place, descriptor):
        if descriptor >= 0:
            os.close(descriptor)
        descriptor = _lock(run, plan, tree, here)
    try:
        # Here, too, as runs on this machine's own disks have no other staging directory.
        threading.Thread(target=sweep_code, args=(staging_root(),), daemon=True).start()
        yield tree
    finally:
        with contextlib.suppress(BlockingIOError):  # another node of this machine uses it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place, ignore_errors=True)
        os.close(descriptor)


def _lock(run: Run, plan: Plan, tree: Path, here: str) -> int:
    """Take a shared lock on the directory of a copy, and unpack it if nobody else uses it.

    Returns:
        The descriptor that holds the lock. Beware: the directory may have been removed meanwhile.
    """
    descriptor = _open(tree.parent)
    try:
        with contextlib.suppress(BlockingIOError):  # another node uses it, or is unpacking it
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_open(tree.parent, descriptor):
                # Anew: a part of what was left here may have been removed, as /tmp is cleaned.
                _unpack(run, plan, tree, here)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(place: Path) -> int:
    """Open a private directory, which is created if it does not exist.

    Raises:
        CheckError: If it cannot be created, or another user may write to it.
    """
    for _ in range(MOST_REMOVALS):
        try:
            make_private(place)
            return os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # noqa: PERF203 - another node has removed it in this moment
            continue
        except CheckError as error:
            # The same, a moment earlier; but a full disk, or one that is read-only, stays so.
            was_there = isinstance(error.__cause__, FileExistsError | None)
            if not was_there or os.path.lexists(place):
                raise
    raise CheckError(f"the copy of the code, {place}, is removed whenever it is made.")


def _is_open(place: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), place.stat())
    return False


def find_archive(run: Run, plan: Plan, verb: str = "resume") -> Path:
    """Return the path or URL of the copy of a run's code.

    Args:
        run: The run, beside which the copy is looked for first.
        plan: The plan of this run.
        verb: What would train the present files instead, for the error message.

    Raises:
        CheckError: If it is not there any more.
    """
    name = (plan.code and plan.code.archive) or ""
    # Beside the run first: all runs may have been moved together.
    places = [root / name for root in (run.directory.parents[1], open_path(plan.root))]
    for place in places:
        if kind_of(place) == "file":
            return place
    raise CheckError(
        f"the copy of the code of run {run.name}, {places[0]}, is not there.",
        f"To train the files as they are now: getiaction-launch {verb} --code now {run.directory}",
    )


def check_code(run: Run, plan: Plan, verb: str) -> None:
    """Check that the copy of a run's code is still there, if it has one.

    Args:
        run: The run whose code it is.
        plan: The plan of this run.
        verb: What would train the present files instead, for the error message.

    Raises:
        CheckError: If it is not; the message says how to do without.
    """
    if plan.code and plan.code.archive:
        find_archive(run, plan, verb)


def _key(code: Code, here: str) -> str:
    places = (code.digest, code.root, code.home or "", here)
    content = "\0".join((*places, *map("\0".join, code.links.items())))
    return hashlib.sha256(os.fsencode(content)).hexdigest()[:12]


def _unpack(run: Run, plan: Plan, tree: Path, here: str) -> None:
    """Unpack the copy of a run's code, and link what it does not hold."""
    code = plan.code or Code()
    archive = find_archive(run, plan)
    shutil.rmtree(tree, ignore_errors=True)
    arriving = tree.parent / _PARTIAL
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(dir=tree.parent) as folder:
        packed = Path(folder, "code.tar.gz")
        if is_remote(archive):
            download(archive, packed)
        else:
            with open_regular(archive) as source, packed.open("wb") as target:
                shutil.copyfileobj(source, target)
        if hash_of(packed) != code.digest:
            raise CheckError(
                f"{archive} is damaged: its contents are not the code that was submitted.",
                "To train the files as they are now: "
                f"getiaction-launch resume --code now {run.directory}",
            )
        try:
            extract(packed, arriving)
        except (StorageError, tarfile.TarError, EOFError) as error:
            raise CheckError(f"{archive} cannot be unpacked: {error}.") from error
    _link(plan, arriving, here)
    arriving.rename(tree)


def extract(packed: Path, tree: Path) -> None:
    """Write the files of an archive below a directory: nothing else, and nowhere else.

    Args:
        packed: Path of the archive.
        tree: The directory to write to; it exists.

    Raises:
        StorageError: If an entry is not an ordinary file with a path below the directory.
    """
    left_bytes = int(MOST_MB * 1e6)
    with tarfile.open(packed, "r:gz") as archive:
        for entry in archive:
            left_bytes -= entry.size
            source = archive.extractfile(entry) if entry.isreg() else None
            if source is None or left_bytes < 0:
                raise StorageError(f"{entry.name!r} is not a file of a copy of code")
            place = place_below(tree, entry.name, create=True)
            with source, place.open("wb") as target:
                shutil.copyfileobj(source, target)
            place.chmod(0o755 if entry.mode & 0o100 else 0o644)
            # Not the time of now: Python's caches of other copies, which tools may share, fit.
            os.utime(place, (entry.mtime, entry.mtime))


def _link(plan: Plan, tree: Path, here: str) -> None:
    """Link what was not copied to where it is on this machine, if it is there."""
    code = plan.code or Code()
    for name, inside in code.links.items():
        if why_refused(name) or (inside and why_refused(inside)):
            continue
        for root, below in code.moved(plan.working_directory, here):
            path = os.path.relpath(name, below)
            target = tree / inside if inside else Path(root, path)
            # What lies above the directory that Ray has copied is looked for at its root.
            if path.startswith("..") or not os.path.lexists(target):
                continue
            with contextlib.suppress(StorageError, FileExistsError):
                place = place_below(tree, name)
                link = os.path.relpath(target, place.parent) if inside else target
                place.symlink_to(link)
