"""The exit code of any program, for which the one of ``ssh`` has too few numbers.

It has 0 to 255, of which some say that the launcher there was not reached. So a code that does not
fit is kept on the login node, and the laptop asks for it: the terminal stays the program's alone.
"""

from pathlib import Path

from getiaction_launch.errors import UnreachableError, UsageError
from getiaction_launch.run.run import staging_root
from getiaction_launch.ssh.message import OFFSET

OF_SSH = 255
"""The exit code with which ``ssh`` says that it could not connect, or has lost the connection."""
OF_SHELLS = (126, 127)
"""Exit codes of a shell that finds no such command, or may not run it."""
KEPT = OF_SSH - 1 - OFFSET
"""In place of an exit code: it has to be asked for."""


def keep_ending(code: int, token: str) -> int:
    """Return what to answer for an exit code: itself, or :data:`KEPT` if it had to be kept.

    Args:
        code: The exit code of a program, from 0 to 255.
        token: Random letters and digits, by which it is asked for.

    Raises:
        OSError: If it cannot be kept.
    """
    if code < KEPT and code + OFFSET not in OF_SHELLS:
        return code
    _path(token).write_text(str(code), encoding="ascii")
    return KEPT


def take_ending(token: str) -> str:
    """Return what was kept, and forget it.

    Raises:
        UnreachableError: If nothing was kept here.
    """
    path = _path(token)
    try:
        text = path.read_text(encoding="ascii")
        path.unlink()
    except FileNotFoundError as error:  # the name of the host leads to several login nodes
        raise UnreachableError(
            "the command has ended, but its exit code is kept on another login node.",
            "Name one login node in the cluster config, as the key ssh.",
        ) from error
    return text


def _path(token: str) -> Path:
    if not (token.isascii() and token.isalnum()):
        raise UsageError("the exit code of a program is asked for without a token.")
    return staging_root() / f"exit-{token}"
