"""Links in a run's directory: a page is passed on, so no file from elsewhere may get onto it.

Others may write to the directory, and a link of theirs could lead to any file of this user.
"""

from pathlib import Path

from getiaction_launch.errors import RecordError
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import is_remote


def check_inside(run: Run, path: Path) -> None:
    """Check that a file lies in the run's directory, also once links are followed.

    Args:
        run: The run whose directory it is.
        path: Path or URL of the file.

    Raises:
        RecordError: If a link leads out of the directory, or to itself.
    """
    if is_remote(path):
        return
    try:
        is_inside = path.resolve().is_relative_to(run.directory.resolve())
    except (OSError, RuntimeError):  # a link to itself, which is the latter up to Python 3.12
        is_inside = False
    if not is_inside:
        raise RecordError(f"{path}: a link leads out of the run's directory.")
