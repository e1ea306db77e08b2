"""Whose a run is: what acts on a run obeys its records, so they must be this user's own.

``plan.json`` names the program to run, ``job.json`` the job to end and the command that starts
Python, and a checkpoint may hold any code. Object storage does not say who wrote an object: there,
everybody who can write to the bucket is trusted.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.errors import CheckError
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import is_remote
from getiaction_launch.system.users import user_name


def check_owner(run: Run, verb: str) -> None:
    """Check that everything that a verb would obey was written by this user.

    Args:
        run: The run to act on.
        verb: The verb of the command line, for the fix.

    Raises:
        CheckError: If the run's directory, or one of these files, belongs to another user.
    """
    for path in () if is_remote(run.directory) else _obeyed(run):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            # Beware: of a link itself. It may lead to a file of this user, for another purpose.
            owner = path.stat(follow_symlinks=False).st_uid
            if owner != os.geteuid():
                raise CheckError(
                    f"run {run.name} belongs to another user: {user_name(owner)} owns {path}.",
                    f"{verb} would do what its records say, as you. If you trust that user: "
                    f"getiaction-launch {verb} --trust {run.directory}",
                )


def _obeyed(run: Run) -> Iterator[Path]:
    launch = run.launch_directory
    yield from (run.directory, launch, launch / "plan.json", launch / "job.json")
    for directory, folders, files in os.walk(launch / "checkpoints"):
        yield Path(directory)
        yield from (Path(directory, name) for name in (*folders, *files))
