"""Which files of a staging directory are to be uploaded, and which cannot be."""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from getiaction_launch.storage.keys import why_refused

_RECORDS = re.compile(
    r"\.(files|checkpoints)\.(jsonl?|lock)|\.(head|arriving)\.json|\.removed\.jsonl|\.end\.json|launch/resume\.lock"
)
"""The launcher's own files about a staging directory."""
_UNFINISHED = re.compile(r"\..+\.partial|\..+\.json\.\d+")
"""How the launcher names a file that it is writing: a checkpoint, a download, a record."""


@dataclass(frozen=True)
class Tree:
    """What is in a staging directory.

    Attributes:
        files: The status of each file, by its path relative to the directory.
        refused: Why something with content cannot be uploaded, by its relative path.
    """

    files: dict[str, os.stat_result] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def is_record(path: Path) -> bool:
    """Whether a file is the mirror's own, or a lock; its path is relative to the directory."""
    return bool(_RECORDS.fullmatch(str(path)))


def is_unfinished(path: str) -> bool:
    """Whether a file is the launcher's own and not, or not yet, a file of the run.

    Beware: other names that begin with a dot are the user's. torch.distributed.checkpoint writes
    ``.metadata``, without which a checkpoint is lost.

    Args:
        path: The file's path, relative to the staging directory.
    """
    return bool(_RECORDS.fullmatch(path) or any(map(_UNFINISHED.fullmatch, path.split("/"))))


def walk(directory: Path) -> Tree:
    """Find the files of a staging directory; pipes and sockets are passed over.

    Links to files, and to directories inside the staging directory, are followed.
    """
    tree, root = Tree(), directory.resolve()
    for path, problem in _walk(directory, "", {root}, root):
        if is_unfinished(path):
            continue
        reason = why_refused(path)
        try:
            found = (directory / path).stat()
        except (FileNotFoundError, NotADirectoryError):  # removed since, or a link to nothing
            continue
        except OSError as error:
            tree.refused[path] = str(error.strerror)
            continue
        if problem or (reason and stat.S_ISREG(found.st_mode)):
            tree.refused[path] = problem or str(reason)
        elif stat.S_ISREG(found.st_mode):
            tree.files[path] = found
    return tree


def _walk(
    directory: Path, prefix: str, above: set[Path], root: Path
) -> Iterator[tuple[str, str | None]]:
    """Yield the relative path of each file and, for a directory that is not entered, why."""
    try:
        entries = sorted(os.scandir(directory / prefix), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        yield prefix, str(error.strerror)
        return
    for entry in entries:
        path = f"{prefix}/{entry.name}" if prefix else entry.name
        if not _is_directory(entry):
            yield path, None
            continue
        real = Path(entry.path).resolve()
        if not real.is_relative_to(root):
            yield path, "it is a link to a directory elsewhere"
        elif real not in above:  # a link to a directory that it is in would have no end
            yield from _walk(directory, path, above | {real}, root)


def _is_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
