"""Where a traceback leaves the user's own code, and which of its lines matter."""

import re
from pathlib import Path

_FRAME = re.compile(
    r'^ *File "(?P<file>[^"\n]{1,1000})", line (?P<line>\d{1,9})(?:,? in (?P<function>.{1,200}))?$'
)
_LIBRARY = re.compile(
    r"/(site|dist)-packages/|/lib(64)?/python3(\.\d+)?/|^<|/getiaction_launch/(cli|launch|backends|"
    r"node|worker|mirror|run|plan|storage|system)/|/runpy\.py$"
)
_OWN_PACKAGE = re.compile(r"/getiaction/(train|policies|data|demo)/|/getiaction/cli\.py$")
_NEWEST_FIRST = "most recent call first"
"""How faulthandler says that it prints a stack in the other order than a traceback."""
_FATAL = "Fatal Python error: "
HEAD_LINES = 3


def user_frame(traceback: str, directory: str) -> str | None:
    """Return where an error left the user's own code, as ``train.py:8 in load``.

    It is the last frame that belongs neither to an installed package nor to Python nor to the
    launcher. If there is none, as in a run of a spec, it is the last one of ``getiaction``. The
    traceback of a data loader's process stands in the message of the error and counts, too.

    Args:
        traceback: The traceback as Python prints it, or the stack that faulthandler prints.
        directory: The directory in which the program ran, to which paths are relative.
    """
    found = _user_line(traceback.splitlines())
    if found is None:
        return None
    frame = _FRAME.match(traceback.splitlines()[found])
    if frame is None:
        return None
    function = frame["function"]
    where = f" in {function}" if function and function != "<module>" else ""
    path = Path(frame["file"])
    name = path.relative_to(directory) if path.is_relative_to(directory) else path
    return f"{name}:{frame['line']}{where}"


def _user_line(lines: list[str]) -> int | None:
    """Return the number of the line with the frame; None if no frame is the user's."""
    frames = [(n, frame["file"]) for n, line in enumerate(lines) if (frame := _FRAME.match(line))]
    own = [(n, file) for n, file in frames if not _LIBRARY.search(file)]
    users = [n for n, file in own if not _OWN_PACKAGE.search(file)] or [n for n, _ in own]
    if not users:
        return None
    is_reversed = any(_NEWEST_FIRST in line for line in lines)
    return users[0 if is_reversed else -1]


def quoted(traceback: str, most: int) -> list[str]:
    """Return the lines of a traceback that matter: from the user's own frame to its end.

    Args:
        traceback: The traceback as Python prints it.
        most: How many lines to return at most.
    """
    lines = [line for line in traceback[-(1 << 20) :].splitlines() if line.strip()]
    start = _user_line(lines)
    if start is None or start >= len(lines) - most:
        return lines[-most:] if start is None else lines[start:]
    return [*lines[start : start + HEAD_LINES], "  ...", *lines[-(most - HEAD_LINES - 1) :]]


def fatal(log: list[str], most: int) -> list[str]:
    """Return what faulthandler has written into a log, from its first line; nothing if it has not.

    Args:
        log: The last lines of the log.
        most: How many lines to return at most.
    """
    start = next((n for n, line in enumerate(log) if line.startswith(_FATAL)), None)
    return [] if start is None else log[start : start + most]
