"""What to do about a file that is there or not, by the error that a trial has raised for it."""

import os
import re
from pathlib import Path

from getiaction_launch.checking.frames import own_frames
from getiaction_launch.storage.variables import variable_in, written_out

_HOME = re.compile(r"(?:^|/)(~\w*(?:/.*)?)$", re.DOTALL)
"""What a shell would take for a home directory, also where a working directory stands before it."""


def fix_of_file(error: BaseException) -> str:
    """Return how to correct the path of a file, or when it is written; empty if that is not clear.

    Args:
        error: The exception that a trial has raised.
    """
    if isinstance(error, FileExistsError):
        return (
            "Another rank or an earlier attempt may have made it: os.makedirs(path, exist_ok=True)"
        )
    path = getattr(error, "filename", None)
    if not isinstance(error, FileNotFoundError) or not isinstance(path, str):
        return ""
    if fix := _written_out(path):
        return fix
    if os.environ.get("RANK", "0") != "0":
        return (
            "If rank 0 writes it, the others must wait for that: write it in prepare_data, or call "
            "trainer.strategy.barrier() behind it on all ranks"
        )
    for frame in own_frames(error)[-1:]:
        file = Path(frame.filename)
        if file.parent.joinpath(path).exists():
            start = f"It is beside {file.name}, and a run starts in {Path.cwd()}"
            return f"{start}: Path(__file__).parent / {path!r}"
    return ""


def _written_out(path: str) -> str:
    if home := _HOME.search(path):
        return f"Nothing expands ~ here. Write the path itself: {Path(home[1]).expanduser()}"
    if variable := variable_in(path):
        return f"Nothing expands {variable} here. {written_out('', path)}"
    return ""
