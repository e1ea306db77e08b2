"""An ordinary user, as whom tests train: what only root may do must not be needed for it.

Such a user cannot enter a directory below one that is closed to others, such as root's home or
pytest's temporary directory, although Python, this repository or a test's files may lie there. So
the user's commands run where these closed directories are replaced by open ones, in a mount
namespace of their own.
"""

import os
import pwd
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

USER = "nobody"
ROOT = Path(__file__).resolve().parents[2]
PLACE = "/mnt"  # empty by the file hierarchy standard, and here hidden in the namespace only
MAY_ENTER = 0o011


def own(path: Path) -> None:
    """Make a directory the user's, and one of pytest's that the user can enter."""
    user = pwd.getpwnam(USER)
    os.chown(path, user.pw_uid, user.pw_gid)
    open_to_all(path)


def open_to_all(path: Path) -> None:
    """Let every user enter a directory, and those above it that pytest has made for one session.

    Beware: not pytest's own one above them, which each session of pytest closes again.
    """
    for directory in (path, *path.parents):
        if directory.name.startswith("pytest-of-"):
            break
        if directory == path or any("pytest-of-" in each.name for each in directory.parents):
            directory.chmod(directory.stat().st_mode | MAY_ENTER)


def become(home: Path) -> list[str]:
    """Words before a command that run it as the user.

    Args:
        home: The user's home directory.
    """
    name = pwd.getpwnam(USER)
    ids = [f"--reuid={name.pw_uid}", f"--regid={name.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "env", f"HOME={home}", f"USER={USER}", f"LOGNAME={USER}"]


def open_ways(paths: Iterable[Path]) -> list[str]:
    """Shell commands that let every user reach files, in a mount namespace of its own.

    Args:
        paths: Directories, besides this repository, Python, and its virtual environment.
    """
    needed = (ROOT, Path(sys.prefix), Path(sys.base_prefix), *paths)
    # What is directly below a closed directory, and leads to what is needed.
    ways = {way for path in needed if (way := _below_closed(path))}
    commands: list[str] = []
    for number, way in enumerate(sorted(ways)):
        held = f"{PLACE}/{number}"
        commands += [f"mkdir {held}", f"mount --bind {shlex.quote(str(way))} {held}"]
    for closed in sorted({way.parent for way in ways}):
        commands.append(f"mount -t tmpfs -o mode=0711 tmpfs {shlex.quote(str(closed))}")
    for number, way in enumerate(sorted(ways)):
        at = shlex.quote(str(way))
        commands += [f"mkdir {at}", f"mount --move {PLACE}/{number} {at}"]
    # Such as a virtual environment in a temporary directory, which nobody writes to.
    for number, path in enumerate(path for path in needed if not path.stat().st_mode & 0o001):
        at, upper, work = shlex.quote(str(path)), f"{PLACE}/upper{number}", f"{PLACE}/work{number}"
        layers = f"lowerdir={at},upperdir={upper},workdir={work}"
        commands += [f"mkdir {upper} {work}", f"mount -t overlay overlay -o {layers} {at}"]
        commands.append(f"chmod o+rx {at}")
    return [f"mount -t tmpfs tmpfs {PLACE}", *commands, f"umount -l {PLACE}"] if commands else []


def _below_closed(path: Path) -> Path | None:
    *above, _ = chain = [*reversed(path.parents), path]
    for number, directory in enumerate(above):
        if not directory.stat().st_mode & 0o001:
            return chain[number + 1]
    return None


def command_here(words: Iterable[str], home: Path, paths: Iterable[Path] = ()) -> list[str]:
    """Words that run a command as the user, on this machine and in the caller's directory.

    Args:
        words: The command.
        home: The user's home directory.
        paths: Further directories that the user must be able to reach.
    """
    inside = ["here=$(pwd -P)", *open_ways([home, *paths]), 'cd "$here"', 'exec "$@"']
    script = "; ".join(inside)
    return ["unshare", "--mount", "sh", "-ec", script, "sh", *become(home), *words]
