"""What a trial writes below its working directory is kept in a layer that vanishes with it.

On Linux, a process may have mounts of its own, which end with it: here overlays, in which files are
read from the directory, and written elsewhere. Without the rights of root that takes a user
namespace, where the process keeps its user and group. Some kernels, sites and file systems allow
none of this, so it is tried in a process of its own first.
https://docs.kernel.org/filesystems/overlayfs.html
"""

import contextlib
import ctypes
import errno
import itertools
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x20000
_WITHOUT_DEVICES = 2 | 4  # MS_NOSUID | MS_NODEV
_PRIVATE = 1 << 14 | 1 << 18  # MS_REC | MS_PRIVATE
_CAPABILITIES = 0x20080522
_POINT_FIELD = 4
"""Where a line of mountinfo has the mount point."""
_TRIED_ENTRIES, _TRIED_BYTES = 100, 1 << 20
"""Among how many entries one is looked for that the kernel copies, and how large it is at most."""


def cover(directories: Iterable[Path], scratch: Path) -> list[Path]:
    """Keep what this process and those that it starts write below some directories in another one.

    Args:
        directories: Directories in which files are to be written.
        scratch: Directory that keeps them.

    Returns:
        The directories that are covered; not those of which Linux makes no overlay.
    """
    chosen: list[Path] = []
    if sys.platform != "linux":
        return chosen
    for directory in sorted({path.resolve() for path in directories}):
        is_covered = any(map(directory.is_relative_to, chosen))
        if not is_covered and _fits(directory, scratch) and _is_possible(directory, scratch):
            chosen.append(directory)
    here = os.getcwd()  # noqa: PTH109 - a name, as chdir wants it
    if chosen:
        flag = _separate()
        for number, directory in enumerate(chosen):
            _mount(directory, scratch / f"layer_{number}", flag)
        _give_up_rights(flag)
    os.chdir(here)  # it was below the overlay
    return chosen


def _fits(directory: Path, scratch: Path) -> bool:
    """Whether an overlay would show all that is in a directory: it does not show other mounts."""
    if scratch.is_relative_to(directory) or not os.access(directory, os.W_OK):
        return False
    lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
    points = [Path(_unescaped(line.split(" ")[_POINT_FIELD])) for line in lines]
    return not any(directory in point.parents for point in points)


def _unescaped(name: str) -> str:
    for character in (" ", "\t", "\n", "\\"):
        name = name.replace(f"\\{ord(character):03o}", character)
    return name


def _is_possible(directory: Path, scratch: Path) -> bool:
    """Whether a directory can be covered, and written to then; found by a process that does it.

    Beware: a process that may begin a user namespace and no more than that is nobody in there.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            layer = scratch / "trial_of_layer"
            layer.mkdir(exist_ok=True)
            _mount(directory, layer / str(len(list(layer.iterdir()))), _separate())
            _try_writing(directory)
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def _try_writing(directory: Path) -> None:
    """Have the kernel copy a file and a directory; of some file systems it cannot."""
    entries = [*itertools.islice(os.scandir(directory), _TRIED_ENTRIES)]
    own = [each for each in entries if not each.is_symlink() and os.access(each, os.W_OK)]
    small = [each for each in own if each.stat().st_size <= _TRIED_BYTES]
    for each in {each.is_dir(): each for each in small if each.is_dir() or each.is_file()}.values():
        os.utime(each)
    made = directory / f".getiaction-check-{os.getpid()}"
    made.mkdir()
    made.rmdir()


def _separate() -> str:
    """Give this process mounts of its own; return the option by which an overlay needs no rights.

    Raises:
        OSError: If the kernel, or who runs the machine, does not allow it.
    """
    user, group, option = os.getuid(), os.getgid(), ""
    try:
        _call("unshare", _NEW_MOUNTS)
    except PermissionError:
        _call("unshare", _NEW_MOUNTS | _NEW_USER)
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
        option = "userxattr,"
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None)
    return option


def _mount(directory: Path, layer: Path, option: str) -> None:
    upper, work = layer / "upper", layer / "work"
    upper.mkdir(parents=True)
    work.mkdir()
    shutil.copymode(directory, upper)  # the overlay has it from there
    with contextlib.suppress(OSError):
        os.chown(upper, -1, directory.stat().st_gid)
    if option:
        os.setxattr(upper, "user.getiaction", b"")  # else nothing could be removed and made again
    os.chdir(directory)  # its name may have characters that mean something among options
    options = f"{option}lowerdir=.,upperdir={upper},workdir={work},volatile"
    flags = ctypes.c_ulong(_WITHOUT_DEVICES)
    _call("mount", b"overlay", os.fsencode(directory), b"overlay", flags, os.fsencode(options))


def _give_up_rights(option: str) -> None:
    """Give up what a user gets in a namespace: otherwise it could write to its read-only files."""
    if option and os.getuid():
        header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
        _call("capset", header, (ctypes.c_uint32 * 6)())


def _call(name: str, *arguments: Any) -> None:  # noqa: ANN401 - what a function of C takes
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno() or errno.EINVAL
        raise OSError(number, os.strerror(number))
