"""Where runs live: paths resolved, probed and written so that no reader sees half a file.

Today a run's directory lies on a file system (a local disk or a shared one); the functions take
and return strings so that URLs can follow.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from getiaction_launch.errors import CheckError, SpecError


def resolve_root(root: str, base: str) -> str:
    """Make ``root`` absolute.

    Args:
        root: The user's ``default_root_dir``: a path or a ``file://`` URL.
        base: The directory under which a relative path lies.

    Raises:
        SpecError: For a URL that is not a file system.
    """
    protocol, separator, path = root.partition("://")
    if separator and protocol != "file":
        raise SpecError(
            f"default_root_dir={root!r} is not a directory on a file system.",
            "Runs of this release live on a local or shared disk, e.g. "
            "--trainer.default_root_dir=experiments",
        )
    return str(Path(base, Path(path if separator else root).expanduser()).absolute())


def check_root(root: str) -> None:
    """Say whether runs could be made under ``root``, and make nothing.

    Raises:
        CheckError: If not, with the path and why.
    """
    place = next(path for path in (Path(root), *Path(root).parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        what = "is not yours to write" if place.is_dir() else "is no directory"
        raise _unwritable(root, f"{place} {what}")


def make_root(root: str) -> None:
    """Create ``root`` if it is not there, then write and delete a file in it.

    Raises:
        CheckError: If that fails, with the path and the system's reason.
    """
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:
            file.write(b"probe")
    except OSError as error:
        raise _unwritable(root, str(error.strerror)) from error


def _unwritable(root: str, reason: str) -> CheckError:
    return CheckError(
        f"default_root_dir={root!r} cannot be written: {reason}.",
        "Name a directory that you may write to: --trainer.default_root_dir=PATH",
    )


def write_json(path: Path, content: dict[str, Any], *, durable: bool = True) -> None:
    """Replace ``path`` in one step: a reader sees the old content or the new, never a part.

    Args:
        path: Where.
        content: What.
        durable: Whether it must survive a power failure, which costs a wait for the disk.
    """
    # The temporary file lies beside its target: a rename across file systems is a copy.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def last_line(path: Path) -> str | None:
    """The last line of a log that is not blank, or empty; None where there is no log to read."""
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError:
        return None
    return next((line for line in reversed(lines) if line.strip()), "")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what :func:`write_json` wrote, or None where there is nothing."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content
