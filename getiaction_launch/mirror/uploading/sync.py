"""One pass over a lane's files in the staging directory: what is new is uploaded.

Storage loses a file only if the run's own code has removed it
(:mod:`~getiaction_launch.mirror.removals`), and a log or a curve never. A single file that cannot
be uploaded does not keep the others from being uploaded; the node's log names it once.
"""

import contextlib
import functools
import os
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from getiaction_launch.errors import RecordError, StorageError, counted
from getiaction_launch.mirror.ledger import BEATS, HEAD, Ledger, Segmented, Whole, lane_of
from getiaction_launch.mirror.removals import JOURNAL, read_removals
from getiaction_launch.mirror.transfer import say, upload
from getiaction_launch.mirror.uploading.parts import PART_BYTES, ROOM
from getiaction_launch.mirror.uploading.room import SMALL_BYTES
from getiaction_launch.mirror.uploading.small import put_all
from getiaction_launch.mirror.uploading.walk import walk
from getiaction_launch.run.reading.tails import TailWriter
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.objects import is_s3, list_objects
from getiaction_launch.storage.paths import file_system, reaching, remove
from getiaction_launch.storage.rotation import end_of, read_from
from getiaction_launch.storage.segment import (
    cut,
    is_curve,
    name_and_number,
    only_grows,
    segment_name,
)

STABLE_SECONDS = 2.0
HEAD_BYTES = 64
COMPARED_BYTES = 4096
"""How much of two logs must be the same for them to count as one."""


class Sync:
    """Uploads the new files of one lane.

    Args:
        run: The run to upload; its directory is a URL.
        lane: Name of the lane, one of :data:`~getiaction_launch.mirror.ledger.LANES`.

    Attributes:
        refused: Why a file could not be uploaded in the last pass, by its relative path.
    """

    def __init__(self, run: Run, lane: str) -> None:
        self._run, self._lane, self._local = run, lane, run.local.directory
        self._ledger = Ledger(self._local, lane)
        self._listing = threading.Lock()
        self._listings: dict[str, dict[str, dict[int, int]]] = {}
        self._waiting: dict[str, int] = {}
        self._said: set[str] = set()
        self._tails = TailWriter(run)
        self.refused: dict[str, str] = {}

    def run(self, *, is_last: bool, with_curves: bool = True) -> None:
        """Upload everything that is new.

        Args:
            is_last: Whether nothing writes any more, so that every file is complete.
            with_curves: Whether curves are uploaded in this pass.

        Raises:
            StorageError: If storage refuses a file or does not answer.
        """
        self._ledger = Ledger(self._local, self._lane, self._ledger)
        for record in (JOURNAL, HEAD):  # kept young, as tmpreaper(8) begins with the oldest files
            with contextlib.suppress(OSError):
                os.utime(self._local / record)
        # Read before the files are listed: a path that exists afterwards was written again.
        removed, self._ledger.removals_read = read_removals(self._local, self._ledger.removals_read)
        tree = walk(self._local)
        found = {path: stat for path, stat in tree.files.items() if lane_of(path) == self._lane}
        self.refused = {p: why for p, why in tree.refused.items() if lane_of(p) == self._lane}
        self._remove(removed, found)
        self._report_vanished(removed, found)
        self._listings = {}
        due = {
            path: stat
            for path, stat in found.items()
            if (with_curves or not is_curve(path)) and self._is_new(path, stat, is_last=is_last)
        }
        fs, _ = file_system(self._run.directory)
        for paths in _in_order(due):
            others = self._upload_small(due, paths) if is_s3(fs) else paths
            for_each(functools.partial(self._upload, due), others, self._run.directory)
            self._write_tails()  # people watch logs, which come first; other files may be large
        self._ledger.write_changes()
        for path, reason in self.refused.items():
            self._say_once(path, f"{path!r} cannot be uploaded: {reason}")

    def _write_tails(self) -> None:
        known = self._ledger.files.items()
        self._tails.write({p: e.segments for p, e in known if isinstance(e, Segmented)})

    def _is_new(self, path: str, stat: os.stat_result, *, is_last: bool) -> bool:
        """Whether a file has changed, and nobody writes it any more; of logs only they know."""
        if only_grows(path):
            return True
        # Beats are replaced once a second, always as a whole: they would never be old enough.
        may_grow = not is_last and not path.startswith(BEATS)
        is_being_written = may_grow and time.time() - stat.st_mtime < STABLE_SECONDS
        return self._ledger.files.get(path) != Whole.of(stat) and not is_being_written

    def _upload(self, found: dict[str, os.stat_result], path: str) -> None:
        with self._refusing(path):
            if only_grows(path):
                self._append(path, found[path])
            else:
                upload(self._local / path, self._run.directory / path)
                self._ledger.record(path, Whole.of(found[path]))

    @contextlib.contextmanager
    def _refusing(self, path: str) -> Iterator[None]:
        """Leave a file out that cannot be read, and note why."""
        try:
            yield
        except StorageError:
            raise
        except FileNotFoundError:
            return  # removed since it was listed
        except (OSError, RecordError) as error:
            self.refused[path] = str(getattr(error, "strerror", None) or error).partition("\n")[0]

    def _upload_small(self, found: dict[str, os.stat_result], paths: list[str]) -> list[str]:
        """Upload the small ones of some files, and return the others."""
        small = dict.fromkeys(
            path for path in paths if found[path].st_size <= SMALL_BYTES and not only_grows(path)
        )

        def bodies() -> Iterator[tuple[str, bytes]]:
            for path in small:
                content = None
                with self._refusing(path), open(f"{self._local}/{path}", "rb") as file:  # noqa: PTH123 - fast
                    content = file.read()
                if content is not None:
                    yield path, content

        def done(path: str) -> None:
            self._ledger.record(path, Whole.of(found[path]))

        if small:
            put_all(self._run.directory, bodies(), done)
        return [path for path in paths if path not in small]

    def _remove(self, removed: Collection[str], found: Collection[str]) -> None:
        names = set(removed)
        for path in list(self._ledger.files) if names else ():
            is_removed = not names.isdisjoint((path, *map(str, PurePosixPath(path).parents)))
            if not is_removed or path in found or only_grows(path):
                continue
            remove(self._run.directory / path)
            self._ledger.forget(path)

    def _report_vanished(self, removed: Collection[str], found: dict[str, os.stat_result]) -> None:
        """Say which files are gone although the run's own code has not removed them."""
        known = self._ledger.files
        kept = [
            path
            for path, entry in known.items()
            if path not in found and not (isinstance(entry, Whole) and entry.is_to_arrive)
        ]
        self._say_once_of(kept, "gone from {}, but not removed by the run; storage keeps")
        inodes = {stat.st_ino for stat in found.values()}
        lost = [
            path
            for path, inode in self._waiting.items()
            # A file that has another name now is not lost.
            if path not in found and path not in removed and inode not in inodes
        ]
        self._say_once_of(lost, "gone from {} before an upload, and lost:")
        self._waiting = {path: stat.st_ino for path, stat in found.items() if path not in known}

    def _say_once_of(self, paths: list[str], words: str) -> None:
        new = [path for path in paths if path not in self._said]
        self._said.update(new)
        if new:
            named = ", ".join(map(repr, new[:3])) + (", ..." if len(new) > 3 else "")  # noqa: PLR2004 - enough
            say(f"{counted(len(new), 'file')} {words.format(self._local)} {named}")

    def _say_once(self, path: str, words: str) -> None:
        if path not in self._said:
            self._said.add(path)
            say(words)

    def _append(self, path: str, stat: os.stat_result) -> None:
        file, size_bytes = self._local / path, end_of(self._local / path)
        while True:
            entry = self._ledger.files.get(path)
            if not isinstance(entry, Segmented):
                entry = self._stored(path, size_bytes)
            head = read_from(file, 0, HEAD_BYTES)[0].hex()
            is_same = entry.inode in (0, stat.st_ino) and head.startswith(entry.head)
            if not is_same or size_bytes < entry.end:
                # It was emptied, or replaced: what storage has of it stays.
                entry = replace(entry, start=0, end=0, is_there=True)
            if entry.is_there:
                end = cut(file, entry.end, size_bytes)
                if end == entry.end:
                    return
                # Recorded before the upload: after a crash the same bytes make the same segment.
                entry = Segmented(
                    entry.segments + 1, entry.end, end, False, stat.st_ino, head[: 2 * end]
                )
                self._ledger.record(path, entry)
            content, position = b"", entry.start
            while position < entry.end:
                piece, position = read_from(file, position, entry.end - position)
                if not piece:  # it has just been emptied
                    entry = replace(entry, end=position)
                content += piece
            # Further than the end, if its middle was dropped.
            entry = replace(entry, end=max(entry.end, position), is_there=True)
            target = self._run.directory / segment_name(path, entry.segments - 1)
            with ROOM.holding(2 * len(content)), reaching(target):
                fs, key = file_system(target)
                fs.pipe_file(key, content)
            self._ledger.record(path, entry)
            self._tails.note(path, entry.segments - 1, content)

    def _stored(self, path: str, size_bytes: int) -> Segmented:
        """Find the segments of a file that this ledger does not know.

        They are of the same file if the ledger was deleted, and else of one that an earlier attempt
        wrote on another machine, which this one continues.
        """
        target = self._run.directory / path
        with reaching(target):
            fs, key = file_system(target)
            sizes = self._list(fs, key.rpartition("/")[0]).get(target.name)
            if not sizes:
                return Segmented()
            count = 1 + max(sizes)
            start = fs.cat_file(key, start=0, end=COMPARED_BYTES) if 0 in sizes else b""
        total_bytes = sum(sizes.values())
        head = read_from(self._local / path, 0, max(len(start), 1))[0]
        end = total_bytes if size_bytes >= total_bytes and head == start else 0
        return Segmented(count, end, end)

    def _list(self, fs: Any, parent: str) -> dict[str, dict[int, int]]:  # noqa: ANN401 - fsspec has no types
        """Return the size of each segment of the files in a directory; one request in a pass."""
        with self._listing:
            if parent not in self._listings:
                sizes = self._listings[parent] = {}
                for entry in list_objects(fs, parent):
                    name, number = name_and_number(entry["name"].rpartition("/")[2])
                    sizes.setdefault(name, {})[number] = entry["size"]
            return self._listings[parent]


def _in_order(found: dict[str, os.stat_result]) -> Iterator[list[str]]:
    """Yield the files that may be uploaded side by side, one group after the other.

    Files that only grow come first: they are small, and people watch them. A large file comes
    alone, since its parts go side by side. The index of a checkpoint in several files comes last:
    where it exists, all of them do.
    """
    growing = sorted(filter(only_grows, found))
    others = sorted(found.keys() - set(growing))
    indices = [path for path in others if path.endswith("/.metadata")]
    large = [path for path in others if found[path].st_size > PART_BYTES]
    alone = dict.fromkeys([*(path for path in large if path not in indices), *indices])
    yield growing
    yield [path for path in others if path not in alone]
    yield from ([path] for path in alone)
