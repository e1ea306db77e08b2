"""Joins the segments of curves once a run has finished.

A long run leaves hundreds of segments of each event file, and TensorBoard opens all of them,
whenever somebody looks at the run. Logs stay as they are: their readers ask for their ends only.
"""

from collections.abc import Sequence

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.transfer import say
from getiaction_launch.run.reading.segments import Joining, StoredFile, stored_files
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import file_system, reaching, read_bytes
from getiaction_launch.storage.segment import is_curve, name_and_number
from getiaction_launch.storage.tree import find, remove_all

FEW = 10
"""How many segments of a file stay as they are: joining them would send their bytes once more."""
MAX_BYTES = 64 << 20
"""Size up to which an event file is joined, in memory; larger ones hold pictures and the like."""


def compact(run: Run) -> None:
    """Make event files of many segments one object; call it when nothing writes any more.

    If storage fails, the node's log says so. Readers see each point once all the same, also if this
    process is killed (:mod:`~getiaction_launch.run.reading.segments`).

    Args:
        run: The run; its directory is a URL.
    """
    try:
        _compact(run)
    except (StorageError, OSError) as error:
        say(f"the curves are still in segments: {error}")


def _compact(run: Run) -> None:
    sizes = find(run.directory).sizes
    curves = [file for file in stored_files(run, sizes) if is_curve(file.path)]
    # What a process that was killed has left comes first, as its record is about to be replaced.
    whole = {file.path for file in curves if list(file.segments) == [file.path]}
    _remove(run, [path for path in set(sizes) - whole if name_and_number(path)[0] in whole])
    if f"launch/{Joining.NAME}.json" in sizes:
        Joining.remove(run)
    many = [f for f in curves if len(f.segments) > FEW and f.size_bytes <= MAX_BYTES]
    if not many:
        return
    Joining({file.path: file.size_bytes for file in many}).write(run)
    for file in many:
        _join(run, file)
    _remove(run, [path for file in many for path in file.segments if path != file.path])
    Joining.remove(run)


def _remove(run: Run, paths: Sequence[str]) -> None:
    _, root = file_system(run.directory)
    remove_all(run.directory, [f"{root}/{path}" for path in paths])


def _join(run: Run, file: StoredFile) -> None:
    segments = [run.directory / segment for segment in file.segments]
    content = b"".join(for_each(read_bytes, segments, run.directory))
    target = run.directory / file.path
    numbers = [name_and_number(segment)[1] for segment in file.segments]
    if len(content) != file.size_bytes or numbers != list(range(len(numbers))):
        raise StorageError(f"{target} has changed, or lacks a segment.")
    with reaching(target):
        fs, key = file_system(target)
        fs.pipe_file(key, content)
        have = int(fs.info(key)["size"])
    if have != file.size_bytes:
        raise StorageError(f"{target} has {have} bytes instead of {file.size_bytes}.")
