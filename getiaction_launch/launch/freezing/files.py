"""Which files a copy of the user's code holds, and what it reaches where that is.

In a git repository, code is what git tracks, and what it does not ignore and looks like code.
Outside of one, code is what looks like it. The rest (data, checkpoints, virtual environments) is
never copied: links in the copy lead there.
"""

import contextlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import getiaction_launch
from getiaction_launch.errors import CheckError
from getiaction_launch.launch.freezing.git import ask, top_level
from getiaction_launch.plan.code import Snapshot
from getiaction_launch.storage.keys import why_refused

PYTHON = (".py", ".pyi")
TEXT = (".yaml", ".yml", ".toml", ".cfg", ".ini", ".json", ".jinja", ".j2")
"""Files beside Python's that programs read from their own directory."""
TEXT_BYTES = 1 << 20
TRACKED_BYTES = 5 << 20
"""A larger file is data, also if git tracks it."""
MOST_FILES = 10_000
"""A repository with more files is a collection of projects; only the project's own are copied."""
MOST_IN_FOLDER = 2000
"""A directory with more files, outside of git, holds data."""
MOST_LINKS = 2000
_NEVER = {".git", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
_INSTALLED = {"site-packages", "node_modules"}
_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg")
_LARGEST = 3


@dataclass
class Files:
    """The files of the user's code.

    Attributes:
        root: The directory that holds them, without links.
        sizes: Size in bytes of each file to copy, by its path relative to the root.
        links: Paths of what is not copied; each with the path in the copy that it stands for, or ""
            for what is at the root.
        not_covered: What a change may still reach although there is a copy, for people.
        has_new: Whether some of the files are not tracked by git.
        is_private: Whether others may not read one of the files.
    """

    root: Path
    sizes: dict[str, int] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)
    has_new: bool = False
    is_private: bool = False

    def check_size(self, limit_mb: float, *, is_resumed: bool = False) -> None:
        """Check that the copy would not be larger than a limit.

        Args:
            limit_mb: The limit for all files together, in MB.
            is_resumed: Whether it is for a run that has another copy already, by `--code now`.

        Raises:
            CheckError: Naming the largest files.
        """
        total = sum(self.sizes.values())
        if total <= limit_mb * 1e6:
            return
        largest = sorted(self.sizes, key=lambda name: (-self.sizes[name], name))[:_LARGEST]
        named = ", ".join(f"{name} ({self.sizes[name] / 1e6:.1f} MB)" for name in largest)
        which, otherwise = "", "Or have the run read your files as they are then: --no-snapshot"
        if is_resumed:
            which = " that --cluster names"
            otherwise = "Or train the copy that was made at submission: leave out --code now"
        raise CheckError(
            f"the code in {self.root} has {len(self.sizes)} files with {total / 1e6:.0f} MB, and "
            f"snapshot.limit_mb={limit_mb:g} is the most that is copied for a run. The largest: "
            f"{named}.",
            f"Leave out what is not code, in the cluster config{which}: "
            f"snapshot: {{exclude: [{largest[0].partition('/')[0]}]}}\n{otherwise}",
        )


def choose(start: Path, script: Path | None, settings: Snapshot, outside: Iterable[Path]) -> Files:
    """Choose the files of the user's code, by their names and sizes alone.

    Args:
        start: The directory of the script, or else the one that the workers run in.
        script: The script, which is copied whatever it is; None for a spec.
        settings: What is not to be copied.
        outside: Directories without code of the user, such as that of the runs.
    """
    start = Path(os.path.realpath(start))
    apart = {os.path.realpath(path) for path in outside}
    apart.add(os.path.dirname(os.path.realpath(getiaction_launch.__file__)))  # noqa: PTH120
    files = Files(start)
    listed: list[tuple[str, bool | None]] | None = None
    if top := _repository(start, script):
        listed = _list(top)
        if listed and len(listed) > MOST_FILES:
            top = _project(start, top)
            listed = _list(top)
    if top and listed is not None:
        files.root = top
    else:
        listed = list(_walk(files, apart))
    own = os.path.relpath(start / script.name, files.root) if script else ""
    inside = os.path.relpath(start, files.root)
    for name, is_new in listed:
        # A script in a hidden directory has its modules there, too.
        parts = name.removeprefix(f"{inside}/").split("/")
        is_hidden = any(part.startswith(".") or part in _INSTALLED for part in parts)
        if not is_hidden and not _is_excluded(name, settings.exclude):
            _add(files, name, is_new=is_new, apart=apart)
    if script:
        files.sizes.setdefault(own, (start / script.name).stat().st_size)
    _link(files)
    return files


def _repository(start: Path, script: Path | None) -> Path | None:
    """Return the top of the repository that the code belongs to; None if it belongs to none."""
    top = top_level(start)
    if top is None or _is_whole_disk(top):
        return None
    is_ignored = ask(start, "check-ignore", "-q", script.name if script else ".") is not None
    return None if is_ignored else top


def _add(files: Files, name: str, *, is_new: bool | None, apart: Iterable[str]) -> None:
    """Add a file if it is code.

    Args:
        files: The files so far.
        name: Path of the file, relative to the root.
        is_new: Whether git does not track it; None if it was not asked.
        apart: Directories without code of the user.
    """
    path = f"{files.root}/{name}"
    if name.endswith("/") or any(path.startswith(f"{place}/") for place in apart):
        return
    if why_refused(name):
        files.not_covered.append(f"{name!r}, as no copy can have such a name")
        return
    try:
        found = os.stat(path)  # noqa: PTH116 - one for each file of a repository
    except OSError:
        return  # removed, or a link that leads nowhere
    if not os.access(path, os.R_OK):
        files.not_covered.append(f"{name}, which you may not read")
        return
    limit_bytes = TRACKED_BYTES
    if is_new is not False:
        limit_bytes = TEXT_BYTES if name.endswith(TEXT) else 0
    is_code = name.endswith(PYTHON) or found.st_size <= limit_bytes
    if not stat.S_ISREG(found.st_mode) or not is_code:
        return
    files.sizes[name] = found.st_size
    files.has_new = files.has_new or bool(is_new)
    files.is_private = files.is_private or not found.st_mode & stat.S_IROTH


def _is_excluded(name: str, patterns: Iterable[str]) -> bool:
    parts = name.split("/")
    paths = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    return any(fnmatch(path, pattern.strip("/")) for pattern in patterns for path in paths)


def _link(files: Files) -> None:
    """Add links to what is not copied: whole directories, where nothing in them is."""
    folders = {""}
    for name in files.sizes:
        parts = name.split("/")
        folders |= {"/".join(parts[:end]) for end in range(1, len(parts))}
    found: dict[str, bool] = {}
    for folder in folders:
        with contextlib.suppress(OSError), os.scandir(files.root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if path in folders or path in files.sizes or entry.name in _NEVER:
                    continue
                if not why_refused(path) and not path.endswith(".pyc"):
                    found[path] = entry.is_dir()
    # Directories first: there are few, and data is in them.
    order = sorted(found, key=lambda path: (not found[path], path))
    files.links = {path: _target(files, path) for path in order[:MOST_LINKS]}
    if len(order) > MOST_LINKS:
        files.not_covered.append(
            f"{len(order) - MOST_LINKS} files in {files.root}, such as {order[-1]}, which the copy "
            "does not lead to, as there are too many"
        )


def _target(files: Files, path: str) -> str:
    """Return what a link in the repository leads to, if that is copied; empty for anything else."""
    place = files.root / path
    if not place.is_symlink():
        return ""
    target = os.path.relpath(os.path.realpath(place), files.root)
    return target if any(name.startswith(f"{target}/") for name in files.sizes) else ""


def _list(directory: Path, prefix: str = "") -> list[tuple[str, bool | None]] | None:
    """Return what git knows below a directory, and whether it does not track it.

    Ignored files are among it, as Python's may be imported; an ignored directory is one entry.

    Returns:
        The paths; None if git fails, or takes too long.
    """
    tracked = _names(directory, "--cached")
    others = _names(directory, "--others", "--exclude-standard")
    ignored = _names(directory, "--others", "--ignored", "--exclude-standard", "--directory")
    if tracked is None or others is None or ignored is None:
        return None
    # What else git ignores, such as local settings, is often secret.
    modules = [name for name in ignored if name.endswith(PYTHON)]
    found: list[tuple[str, bool | None]] = [(f"{prefix}{name}", None) for name in modules]
    for name, is_new in [*((name, False) for name in tracked), *((name, True) for name in others)]:
        place = directory / name
        # A submodule, or another repository in this one.
        if name.endswith("/") or (place.is_dir() and not place.is_symlink()):
            found += _list(place, f"{prefix}{name.rstrip('/')}/") or []
        else:
            found.append((f"{prefix}{name}", is_new))
    return found


def _names(directory: Path, *words: str) -> list[str] | None:
    said = ask(directory, "ls-files", "-z", *words)
    return None if said is None else list(dict.fromkeys(filter(None, said.split("\0"))))


def _walk(files: Files, apart: Iterable[str]) -> Iterator[tuple[str, bool | None]]:
    """Yield the files below the root, those near it first.

    Not more than :data:`MOST_FILES` entries are looked at, since data may be there.
    """
    root, left = files.root, MOST_FILES
    folders, skipped = [""], _NEVER | _INSTALLED
    is_whole_disk = _is_whole_disk(root)
    for folder in folders:
        try:
            with os.scandir(root / folder) as found:
                some = itertools.islice(found, MOST_IN_FOLDER + 1 if folder else None)
                entries = sorted(some, key=lambda entry: entry.name)
        except OSError:
            continue
        names = {entry.name for entry in entries}
        left -= len(entries)
        is_apart = bool(folder and is_whole_disk and not _has_python(names))
        is_large = left < 0 or len(entries) > MOST_IN_FOLDER
        if folder and (is_large or "pyvenv.cfg" in names or is_apart):
            if is_large and _has_python(names):
                files.not_covered.append(f"{root / folder}, as there are too many files in {root}")
            continue
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.is_dir(follow_symlinks=False):
                yield name, None
            elif not (entry.name.startswith(".") or entry.name in skipped or entry.path in apart):
                folders.append(name)


def _has_python(names: Iterable[str]) -> bool:
    return any(name.endswith(PYTHON) for name in names)


def _is_whole_disk(directory: Path) -> bool:
    """Whether a directory holds everything of a user or machine, of which little is code."""
    if directory in (Path("/"), Path(os.path.realpath(Path.home()))):
        return True
    return bool(directory.stat().st_mode & stat.S_ISVTX)


def _project(start: Path, top: Path) -> Path:
    """Return the directory of the project that a directory is in, in a repository of several."""
    for place in (start, *start.parents):
        if place == top or any((place / name).exists() for name in _PROJECT):
            return place
    return start
