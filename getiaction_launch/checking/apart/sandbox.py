"""What a process that only tries a spec must not do: write files, start programs, use the network.

Python reports each of these to audit hooks, which cannot be removed again, so this is for a process
that ends after the trial. What is refused looks like a read-only disk or a network that is down,
which libraries know how to live with. Python does not see what C code writes: that is refused by
Linux, where it can (:mod:`getiaction_launch.checking.apart.landlock`), and elsewhere only for
``torch.save`` and SQLite.
"""

import contextlib
import functools
import importlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from getiaction_launch.checking.apart.landlock import forbid_writing

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rename": 2,
    "os.rmdir": 1,
    "os.symlink": 2,
    "os.link": 2,
    "os.truncate": 1,
    "os.chmod": 1,
    "os.utime": 1,
    "os.chown": 1,
    "os.setxattr": 1,
    "os.removexattr": 1,
    "shutil.rmtree": 1,
    "shutil.move": 2,
}
"""Events of files, with how many paths are their first arguments."""
_OF_NAMES = {"os.mkdir", "os.remove", "os.rename", "os.symlink", "os.link"}
"""Events that change a link itself, and not what it leads to."""
_CALLS = {"socket.connect", "socket.getaddrinfo", "socket.sendto"}
_PROGRAMS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.kill"}
_DEVICES = (
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
    *("/dev/fd/", "/dev/stdout", "/dev/stderr", "/dev/pts/", "/proc/self/"),
)
"""What may be written to besides; not a serial port, behind which there may be a robot."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's own folder
"""Where loader processes leave batches, by compiled code; a program may have files there, too."""


wishes: list[str] = []
"""What the trial of this process has wanted to do and must not, in this order."""


class BlockedError(PermissionError):
    """The trial wanted to do what it must not do.

    Attributes:
        wish: What it wanted to do, for a sentence: ``write /home/me/file``.
    """

    def __init__(self, wish: str) -> None:
        super().__init__(1, f"a check may not {wish}")
        with contextlib.suppress(OSError):
            os.write(2, f"{self.args[1]}\n".encode())  # for a process that is aborted afterwards
        self.wish = wish
        wishes.append(wish)


def close_off(scratch: Path, covered: Sequence[Path] = ()) -> bool:
    """Block everything that reaches beyond this process, except in some directories.

    Args:
        scratch: Directory that may be written to; it gets temporary files.
        covered: Directories that may be written to as well, since a layer keeps what is written.

    Returns:
        Whether compiled code and other programs cannot write elsewhere, either.
    """
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    sys.dont_write_bytecode = True
    open_to = [scratch, *covered]
    is_closed = forbid_writing([*open_to, _SHARED_MEMORY, *map(Path, _DEVICES)])
    allowed = (*(f"{path}/" for path in open_to), *_DEVICES)

    def judge(event: str, arguments: tuple[Any, ...]) -> None:
        for path in _written(event, arguments):
            _refuse_outside(path, allowed, is_followed=event not in _OF_NAMES)
        if event in _PROGRAMS:
            raise BlockedError(f"start another program: {arguments[0]}")
        if event in _CALLS and not _is_local(event, arguments):
            raise BlockedError("use the network")

    sys.addaudithook(judge)
    _judge_saving(allowed)
    return is_closed


def forbid_programs() -> None:
    """Refuse what Python reports to no audit hook: processes by spawn, and named shared memory."""
    import multiprocessing.util

    def refuse(wish: str) -> Callable[..., Any]:
        def refused(*_: object, **__: object) -> Any:  # noqa: ANN401 - it does not return
            raise BlockedError(wish)

        return refused

    multiprocessing.util.spawnv_passfds = refuse("start another program")
    memory: Any = importlib.import_module("_posixshmem")
    memory.shm_open = refuse("make shared memory with a name")


def wish_of(error: BaseException | None) -> str | None:
    """Return what a trial wanted to do and must not, if that is why it has failed.

    Args:
        error: The exception that has ended the trial.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BlockedError):
            return error.wish
        error = error.__cause__ or error.__context__
    return None


def overlay(variable: str, folder: Path, scratch: Path) -> None:
    """Show a cache in a directory that may be written to: what is in it, without what is added.

    Args:
        variable: Environment variable by which the cache is found.
        folder: The cache, which may not exist.
        scratch: Directory in which the cache is shown.
    """
    shown = scratch / "cache"
    shown.mkdir()
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.suffix != ".lock":
                (shown / path.name).symlink_to(path)
    os.environ[variable] = str(shown)


def _written(event: str, arguments: tuple[Any, ...]) -> list[object]:
    """Return the paths that an event writes to."""
    if event == "open":
        path, mode, flags = arguments
        is_written = bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITES)
        paths = [path] if is_written else []
    elif event == "sqlite3.connect":
        paths = [path for path in arguments[:1] if path not in ("", ":memory:")]
    elif event == "os.mkdir" and os.path.lexists(arguments[0]):
        paths = []  # the kernel refuses it, also in the run
    else:
        paths = list(arguments[: _CHANGES.get(event, 0)])
    return [path for path in paths if not isinstance(path, int)]


def _judge_saving(allowed: tuple[str, ...]) -> None:
    """Judge the paths of ``torch.save`` too, which writes by C++ and reports no event."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    save = torch.save

    @functools.wraps(save)
    def judged(obj: object, f: Any, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        if isinstance(f, (str, os.PathLike)):
            _refuse_outside(f, allowed, is_followed=True)
        save(obj, f, *arguments, **options)

    torch.save = judged  # type: ignore[attr-defined]


def _refuse_outside(path: object, allowed: tuple[str, ...], *, is_followed: bool) -> None:
    name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else str(path)
    folder, last = os.path.split(os.path.abspath(name))  # noqa: PTH100 - names
    place = os.path.join(os.path.realpath(folder), last)  # noqa: PTH118 - as above
    is_outside = not f"{place}/".startswith(allowed)
    if is_followed and not is_outside and not place.startswith(_DEVICES):
        name = os.path.realpath(place)
        is_outside = not f"{name}/".startswith(allowed)
    if is_outside and not name.startswith(allowed):
        raise BlockedError(f"write {name}")


def _is_local(event: str, arguments: tuple[Any, ...]) -> bool:
    if event == "socket.getaddrinfo":
        return str(arguments[0]) in ("", "None", "localhost", "127.0.0.1", "::1")
    connection = arguments[0]
    return bool(getattr(connection, "family", None) == socket.AF_UNIX)
