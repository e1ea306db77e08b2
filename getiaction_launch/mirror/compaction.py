"""Joins the segments of curves once training has finished.

A long run leaves hundreds of segments of each event file, and TensorBoard opens all of them,
whenever somebody looks at the run. Logs stay as they are: their readers ask for their ends only.
"""

from collections import defaultdict

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.transfer import say
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import file_system, reaching
from getiaction_launch.storage.segment import is_curve, name_and_number
from getiaction_launch.storage.tree import find

FEW = 10
"""How many segments of a file stay as they are: joining them would send their bytes once more."""
MAX_BYTES = 64 << 20
"""Size up to which an event file is joined, in memory; larger ones hold pictures and the like."""


def compact(run: Run) -> None:
    """Make event files of many segments one object; call it when nothing writes any more.

    If storage fails, the curves stay as they are, and the node's log says so.

    Args:
        run: The run; its directory is a URL.
    """
    try:
        sizes = find(run.directory).sizes
        files: dict[str, list[str]] = defaultdict(list)
        for path in sorted(sizes, key=name_and_number):
            files[name_and_number(path)[0]].append(path)
        for name, segments in files.items():
            is_large = sum(sizes[segment] for segment in segments) > MAX_BYTES
            if is_curve(name) and len(segments) > FEW and not is_large:
                _join(run, segments)
    except (StorageError, OSError) as error:
        say(f"the curves are still in segments: {error}")


def _join(run: Run, segments: list[str]) -> None:
    with reaching(run.directory):
        fs, root = file_system(run.directory)
        keys = [f"{root}/{segment}" for segment in segments]
        first, *others = for_each(fs.cat_file, keys, run.directory)
        rest = b"".join(others)
        # Otherwise it was joined by a process that was killed before it could remove them.
        if not first.endswith(rest):
            fs.pipe_file(keys[0], first + rest)
            if (have := int(fs.info(keys[0])["size"])) != len(first + rest):
                raise StorageError(f"{keys[0]} has only {have} of {len(first + rest)} bytes.")
        # Last: a reader sees points twice for a moment, and never none.
        for_each(fs.rm_file, keys[1:], run.directory)  # to rm(), names may be patterns
