"""Files on remote storage as they were before they were uploaded in segments.

When training has finished, the segments of curves are joined, and somebody may be reading them at
that moment. So before the first segment becomes the whole file, ``launch/joining.json`` says how
long that will be: where it has this size, the other segments, which are removed next, are left out.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ClassVar

from getiaction_launch.errors import RecordError
from getiaction_launch.run.records import Record
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import read_bytes
from getiaction_launch.storage.segment import is_curve, name_and_number


@dataclass(frozen=True)
class Joining(Record):
    """``joining.json``: curves whose segments are being joined. Written by the process that does.

    Attributes:
        sizes: Size of each whole file in bytes, by its path relative to the run's directory.
    """

    NAME: ClassVar[str] = "joining"

    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredFile:
    """A file as it was before it was uploaded.

    Attributes:
        path: Path of the file, relative to the run's directory.
        segments: Size in bytes of each object that holds the file, in order, by its path.
    """

    path: str
    segments: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """Size of the file in bytes."""
        return sum(self.segments.values())


def stored_files(run: Run, sizes: Mapping[str, int]) -> list[StoredFile]:
    """Find the files of a run on remote storage.

    Args:
        run: The run; its directory is a URL.
        sizes: Size in bytes of each object, by its path relative to the run's directory.

    Raises:
        StorageError: If storage does not answer.
    """
    files: dict[str, dict[str, int]] = defaultdict(dict)
    for path in sorted(sizes, key=name_and_number):
        files[name_and_number(path)[0]][path] = sizes[path]
    if any(len(segments) > 1 and is_curve(path) for path, segments in files.items()):
        for path, size_bytes in _joining(run).sizes.items():
            if sizes.get(path) == size_bytes:
                files[path] = {path: size_bytes}
    return [StoredFile(path, segments) for path, segments in files.items()]


def _joining(run: Run) -> Joining:
    with suppress(RecordError):  # damaged: nothing can be said about the segments
        return Joining.read(run) or Joining()
    return Joining()


def read_segments(run: Run, file: StoredFile) -> Iterator[bytes]:
    """Read a file piece by piece, although its segments may be joined since they were listed.

    Args:
        run: The run that the file belongs to; its directory is a URL.
        file: The file, as it was listed.

    Raises:
        FileNotFoundError: If the file does not exist any more.
        StorageError: If storage does not answer.
    """
    first, *others = file.segments
    content = read_bytes(run.directory / first)
    yield content
    done = len(content)
    # Nothing but the whole file ever takes the place of a segment.
    for segment in others if done == file.segments[first] else ():
        try:
            content = read_bytes(run.directory / segment)
        except FileNotFoundError:
            whole = read_bytes(run.directory / first)
            if len(whole) < done or not is_curve(file.path):  # somebody else has removed it
                raise
            yield whole[done:]
            return
        yield content
        done += len(content)
