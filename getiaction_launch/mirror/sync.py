"""One pass over a lane's files in the staging directory: what is new is uploaded.

Storage loses a file only if the run's own code has removed it
(:mod:`~getiaction_launch.mirror.removals`), and a log or a curve never. A single file that cannot
be uploaded does not keep the others from being uploaded; the node's log names it once.
"""

import contextlib
import os
import time
from collections.abc import Collection
from dataclasses import replace

from getiaction_launch.errors import RecordError, StorageError, counted
from getiaction_launch.mirror.ledger import BEATS, HEAD, Ledger, Segmented, Whole, lane_of
from getiaction_launch.mirror.removals import JOURNAL, read_removals
from getiaction_launch.mirror.transfer import say, upload
from getiaction_launch.mirror.walk import walk
from getiaction_launch.run.reading.tails import TailWriter
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import file_system, reaching, remove
from getiaction_launch.storage.rotation import end_of, read_from
from getiaction_launch.storage.segment import cut, name_and_number, only_grows, segment_name

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
        self._waiting: dict[str, int] = {}
        self._said: set[str] = set()
        self._tails = TailWriter(run)
        self.refused: dict[str, str] = {}

    def run(self, *, is_last: bool) -> None:
        """Upload everything that is new.

        Args:
            is_last: Whether nothing writes any more, so that every file is complete.

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
        for path in sorted(found, key=_order):
            if not only_grows(path):
                self._write_tails()  # people watch logs, and other files may be large
            self._upload(path, found[path], is_last=is_last)
        self._write_tails()
        self._ledger.write()
        for path, reason in self.refused.items():
            self._say_once(path, f"{path!r} cannot be uploaded: {reason}")

    def _write_tails(self) -> None:
        known = self._ledger.files.items()
        self._tails.write({p: e.segments for p, e in known if isinstance(e, Segmented)})

    def _upload(self, path: str, stat: os.stat_result, *, is_last: bool) -> None:
        try:
            if only_grows(path):
                self._append(path, stat)
            else:
                self._replace(path, stat, is_last=is_last)
        except StorageError:
            raise
        except FileNotFoundError:
            return  # removed since it was listed
        except (OSError, RecordError) as error:
            self.refused[path] = str(getattr(error, "strerror", None) or error).partition("\n")[0]

    def _remove(self, removed: Collection[str], found: Collection[str]) -> None:
        for path in list(self._ledger.files):
            is_removed = any(path == name or path.startswith(f"{name}/") for name in removed)
            if not is_removed or path in found or only_grows(path):
                continue
            remove(self._run.directory / path)
            del self._ledger.files[path]

    def _report_vanished(self, removed: Collection[str], found: dict[str, os.stat_result]) -> None:
        """Say which files are gone although the run's own code has not removed them."""
        kept = [path for path in self._ledger.files if path not in found]
        self._say_once_of(kept, "gone from {}, but not removed by the run; storage keeps")
        inodes = {stat.st_ino for stat in found.values()}
        lost = [
            path
            for path, inode in self._waiting.items()
            # A file that has another name now is not lost.
            if path not in found and path not in removed and inode not in inodes
        ]
        self._say_once_of(lost, "gone from {} before an upload, and lost:")
        known = self._ledger.files
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
            with reaching(target):
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
            parent = key.rpartition("/")[0]
            try:
                sizes = {
                    e["name"].rpartition("/")[2]: e["size"] for e in fs.ls(parent, detail=True)
                }
            except FileNotFoundError:
                return Segmented()
            name = target.name
            names = [n for n in sizes if name_and_number(n)[0] == name]
            if not names:
                return Segmented()
            count = 1 + max(name_and_number(n)[1] for n in names)
            start = fs.cat_file(key, start=0, end=COMPARED_BYTES) if name in sizes else b""
        total_bytes = sum(sizes[n] for n in names)
        head = read_from(self._local / path, 0, max(len(start), 1))[0]
        end = total_bytes if size_bytes >= total_bytes and head == start else 0
        return Segmented(count, end, end)

    def _replace(self, path: str, stat: os.stat_result, *, is_last: bool) -> None:
        entry = Whole.of(stat)
        # Beats are replaced once a second, always as a whole: they would never be old enough.
        may_grow = not is_last and not path.startswith(BEATS)
        is_being_written = may_grow and time.time() - stat.st_mtime < STABLE_SECONDS
        if self._ledger.files.get(path) == entry or is_being_written:
            return
        upload(self._local / path, self._run.directory / path)
        self._ledger.record(path, entry)


def _order(path: str) -> tuple[bool, bool, str]:
    # Files that only grow come first: they are small, and people watch them. The index of a
    # checkpoint in several files comes last: where it exists, all of them do.
    return not only_grows(path), path.endswith("/.metadata"), path
