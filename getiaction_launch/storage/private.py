"""Whether only this user can have written to a local directory, before anything in it is believed.

In a directory that everybody may write to, such as ``/tmp``, another user may have made a directory
under any name first.
"""

import contextlib
import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

_ALL_USERS = ["0", "0", "4294967295"]
"""The user ids of a machine, in uid_map of user_namespaces(7); a container has fewer."""


def why_not_private(directory: Path) -> str | None:
    """Return who else may have written to a directory, or could replace it; None if nobody.

    The directory must belong to this user, and be no link. Above it, up to a directory with the
    sticky bit, in which nobody can rename what belongs to others, all must belong to this user or
    to root, and be writable by nobody else.

    Args:
        directory: Absolute path of a local directory that exists.
    """
    try:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode):
            return f"{directory} is a link or a file, and not a directory"
        reasons = [_why_not(directory, found, {os.getuid()})]
        owners = {0, os.getuid(), _hidden_root()}
        reasons += [_why_not(p, p.lstat(), owners) for p in _directories_above(directory)]
    except OSError as error:
        return f"{directory} cannot be looked at: {error.strerror}"
    return next(filter(None, reasons), None)


def _why_not(path: Path, found: os.stat_result, owners: set[int]) -> str | None:
    if found.st_uid not in owners:
        return f"{path} belongs to {_name(found.st_uid)}"
    is_link = stat.S_ISLNK(found.st_mode)  # it has no permissions of its own
    return f"other users can write to {path}" if not is_link and _others_write(found) else None


def _directories_above(directory: Path) -> Iterator[Path]:
    # As typed, where a link may be another user's, and without links, where they lead.
    for chain in (directory.parents, (directory.resolve() / "_").parents[1:]):
        for above in chain:
            if above.lstat().st_mode & stat.S_ISVTX:
                break
            yield above


def _others_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _is_own_group(found.st_gid)


def _is_own_group(gid: int) -> bool:
    """Whether it is the group of one user that many systems make, with files open to it."""
    with contextlib.suppress(KeyError):
        return grp.getgrgid(gid).gr_name == pwd.getpwuid(os.getuid()).pw_name
    return False


def _hidden_root() -> int:
    """Return the user id that root has in a container which knows only its own users."""
    with contextlib.suppress(OSError):
        if Path("/proc/self/uid_map").read_text().split() != _ALL_USERS:
            return int(Path("/proc/sys/kernel/overflowuid").read_text())
    return 0


def _name(uid: int) -> str:
    with contextlib.suppress(KeyError):
        return f"user {pwd.getpwuid(uid).pw_name!r}"
    return f"user {uid}"
