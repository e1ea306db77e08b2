"""Where in the user's own code an exception was raised, or a process is."""

import os
import sysconfig
import traceback
from types import FrameType

_NOT_OWN = (
    *("site-packages", "dist-packages", "<frozen", os.path.dirname(os.__file__)),  # noqa: PTH120
    *("/getiaction_launch/", "/getiaction/"),
    f"{sysconfig.get_path('scripts')}/",
)


def is_own(file: str) -> bool:
    """Return whether a file of code is the user's, and of no library."""
    return not any(part in file for part in _NOT_OWN)


def calls_of(frame: FrameType) -> list[tuple[str, int]]:
    """Return file and line of a call and of those that have led to it, the innermost first.

    Args:
        frame: The call to begin with.
    """
    return [(each.f_code.co_filename, line) for each, line in traceback.walk_stack(frame)]


def own_call(frame: FrameType) -> tuple[str, int] | None:
    """Return file and line of the innermost call of the user's own code; None if there is none.

    Args:
        frame: The call from which to look.
    """
    return next((each for each in calls_of(frame) if is_own(each[0])), None)


def own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the calls of the user's own code that have led to an exception, the outermost first.

    Args:
        error: The exception that a trial has raised.
    """
    return [each for each in traceback.extract_tb(error.__traceback__) if is_own(each.filename)]


def chain_of(error: BaseException) -> list[BaseException]:
    """Return an exception and those that it was made of, the original one first."""
    chain = [error]
    while (cause := chain[0].__cause__ or chain[0].__context__) and cause not in chain:
        chain.insert(0, cause)
    return chain
