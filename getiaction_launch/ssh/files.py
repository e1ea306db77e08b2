"""Files of a run that go from the login node to the laptop, as one stream of a tar archive.

The first entry says what comes. A file that has only grown since the last time is sent from there
on, as event files do.
"""

import contextlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from getiaction_launch.errors import StorageError
from getiaction_launch.mirror.transfer import say_refused
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.tree import place_below

HEADER = "files.json"
_OFFSET = "GETIACTION.offset"
_PIECE = 1 << 20
_RUN = re.compile(r"[^/]+/version_\d+")


@dataclass(frozen=True)
class Header:
    """What comes.

    Attributes:
        run: The name of the run.
        name: The name of the one file or directory that was asked for; empty for the whole run.
        total_bytes: Size of all that comes, about.
    """

    run: str
    name: str = ""
    total_bytes: int = 0

    def __post_init__(self) -> None:
        # Both become paths on this machine, which the other one must not choose.
        if why_refused(self.run) or not _RUN.fullmatch(self.run):
            raise ValueError(f"run={self.run!r} is not NAME/version_N")
        if self.name and (why_refused(self.name) or "/" in self.name):
            raise ValueError(f"name={self.name!r} is not the name of a file")


def find_files(directory: Path) -> Iterator[str]:
    """Yield the paths of all ordinary files below a directory, relative to it; no link is followed.

    Args:
        directory: The directory to look in.
    """
    for folder, _, names in os.walk(directory):
        for name in sorted(names):
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if stat.S_ISREG(path.lstat().st_mode):
                    yield str(path.relative_to(directory))


def send(
    stream: IO[bytes],
    run: str,
    name: str,
    files: Mapping[str, Path],
    have_bytes: Mapping[str, int],
) -> None:
    """Write files to a stream.

    Args:
        stream: What the laptop reads.
        run: The name of the run.
        name: The name of the one file or directory that was asked for; empty for the whole run.
        files: The files, by their paths on the laptop.
        have_bytes: How much of each file the laptop has; nothing of others.

    Raises:
        OSError: If a file cannot be read.
    """
    total = 0
    for path, place in files.items():
        with contextlib.suppress(FileNotFoundError):
            total += max(0, place.stat().st_size - have_bytes.get(path, 0))
    header = json.dumps(asdict(Header(run, name, total)), allow_nan=False).encode()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo(HEADER)
        entry.size = len(header)
        archive.addfile(entry, io.BytesIO(header))
        for path, place in files.items():
            # A record may have been replaced or removed in the meantime.
            with contextlib.suppress(FileNotFoundError), place.open("rb") as file:
                found, have = os.fstat(file.fileno()), have_bytes.get(path)
                if found.st_size == have:
                    continue
                offset = have if have and have < found.st_size else 0
                entry = tarfile.TarInfo(path)
                entry.size, entry.mtime = found.st_size - offset, int(found.st_mtime)
                entry.pax_headers = {_OFFSET: str(offset)}
                file.seek(offset)
                archive.addfile(entry, file)


def receive(
    stream: IO[bytes], choose: Callable[[Header], Path], watch: Callable[[int, int], None]
) -> Header:
    """Write the files of a stream below a directory.

    Names that cannot be files below it are left out; a line on stderr names each of them.

    Args:
        stream: What the login node writes.
        choose: Returns the directory for the files, which exists.
        watch: Called with the bytes that have arrived so far, and the total.

    Raises:
        StorageError: If nothing comes, or not all of it.
        RecordError: If what comes is said to be something else than files of a run.
        LaunchError: If ``choose`` refuses what comes.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            return _receive(archive, choose, watch)
    except tarfile.TarError as error:
        raise StorageError(f"the transfer is incomplete: {error}.", "Try it again.") from error


def _receive(
    archive: tarfile.TarFile, choose: Callable[[Header], Path], watch: Callable[[int, int], None]
) -> Header:
    first = archive.next()
    said = archive.extractfile(first) if first and first.name == HEADER else None
    if said is None:
        raise StorageError("the login node did not send files.", "Try it again.")
    header = read_dataclass(Header, json.loads(said.read()), HEADER)
    directory, done = choose(header), 0
    for entry in archive:
        if not entry.isreg() or not (source := archive.extractfile(entry)) or entry is first:
            continue
        offset = int(entry.pax_headers.get(_OFFSET, 0))
        try:
            place = place_below(directory, entry.name, create=not (directory / entry.name).exists())
        except StorageError as error:
            say_refused(entry.name, str(error))
            continue
        with place.open("r+b") as target:
            target.truncate(offset)
            target.seek(offset)
            while piece := source.read(_PIECE):
                target.write(piece)
                done += len(piece)
                watch(done, header.total_bytes)
        os.utime(place, (entry.mtime, entry.mtime))
    return header
