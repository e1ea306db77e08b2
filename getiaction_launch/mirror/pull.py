"""A run, or one checkpoint of it, brought from remote storage to this machine."""

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.errors import CheckError, StorageError, UsageError, nearest_first
from getiaction_launch.mirror.transfer import download, hash_of
from getiaction_launch.run.checkpoint import Marker, newest
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import (
    children,
    file_system,
    is_remote,
    modified_at,
    reaching,
)
from getiaction_launch.storage.segment import name_and_number

NEWEST = "newest"
PARALLEL = 4
_NOT_THE_COPYS = ("launch/job.json", "launch/claim")
"""What would have a copy be taken for the run itself, and its job cancelled by it."""


@dataclass(frozen=True)
class File:
    """A file as it was before it went to storage.

    Attributes:
        path: In the run's directory.
        segments: The objects that hold it, in their order.
        size_bytes: Of all of them.
    """

    path: str
    segments: list[str]
    size_bytes: int


def files_of_run(run: Run) -> list[File]:
    """Every file of a run on storage, but the records of its job.

    Raises:
        CheckError: If the run is on this machine's disks.
        StorageError: If its storage does not answer.
    """
    if not is_remote(run.directory):
        raise CheckError(f"run {run.name} is in a directory: {run.directory}.")
    with reaching(run.directory):
        fs, root = file_system(run.directory)
        found = fs.find(root, detail=True)
    objects: dict[str, list[str]] = defaultdict(list)
    for key in sorted(found):
        path, _ = name_and_number(key.removeprefix(root).lstrip("/"))
        if not path.startswith(_NOT_THE_COPYS):
            objects[path].append(key)
    return [
        File(path, keys, sum(found[key]["size"] for key in keys)) for path, keys in objects.items()
    ]


def pull_run(run: Run, target: Path, watch: Callable[[int, int], None]) -> None:
    """Copy a run into a directory: the tree that it would have there.

    Args:
        run: Whose directory is a URL.
        target: Must not be there.
        watch: Told the bytes that have come, and all of them.

    Raises:
        CheckError: If something is there, or the run is no remote one.
        StorageError: If storage does not give everything.
    """
    files = files_of_run(run)
    if target.exists():
        raise CheckError(f"{target} is there already.", "Name another directory: pull RUN DIR")
    fs, _ = file_system(run.directory)
    total, done = sum(file.size_bytes for file in files), 0

    def bring(file: File) -> int:
        place = target / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        with reaching(run.directory):
            fs.get_file(file.segments[0], str(place))
            with place.open("ab") as whole:
                for segment in file.segments[1:]:
                    whole.write(fs.cat_file(segment))
        return file.size_bytes

    with ThreadPoolExecutor(PARALLEL) as pool:
        for size_bytes in pool.map(bring, files):
            done += size_bytes
            watch(done, total)


def pull_checkpoint(run: Run, name: str, target: Path) -> Path:
    """Copy one checkpoint of a run.

    Args:
        run: Whose directory is a URL.
        name: Of a file in its ``checkpoints/``, or :data:`NEWEST` for what came last, be it one of
            those or what the run would resume from.
        target: A directory.

    Returns:
        Where it is.

    Raises:
        UsageError: If there is none of that name.
        CheckError: If something of its name is there already.
        StorageError: If it does not come whole.
    """
    there = {path.name: path for path in children(run.directory / "checkpoints")}
    source = _last_come(run, list(there.values())) if name == NEWEST else there.get(name)
    if source is None:
        raise UsageError(
            f"--checkpoint {name}: run {run.name} has none of that name.",
            nearest_first(name, [*there, NEWEST]),
        )
    marker = Marker.read(source)
    place = target / source.name
    if place.exists():
        raise CheckError(f"{place} is there already.", "Name another directory: pull RUN DIR")
    target.mkdir(parents=True, exist_ok=True)
    arriving = place.with_name(f".{place.name}.partial")
    download(source, arriving)
    if marker and marker.sha256 and hash_of(arriving) != marker.sha256:
        raise StorageError(f"{source} is damaged: its contents are not those that were saved.")
    arriving.replace(place)
    return place


def _last_come(run: Run, files: list[Path]) -> Path:
    """Of these and the committed ones, by the clock of storage; a short run commits none."""
    came_at = {path: modified_at(path) for path in files if path.is_file()}
    if committed := newest(run):
        came_at[committed.path] = modified_at(committed.path.with_suffix(".json"))
    if not came_at:
        raise UsageError(f"run {run.name} has saved no checkpoint yet.")
    return max(came_at, key=came_at.__getitem__)
