"""Removes the copies of code that only removed runs have used.

Runs with the same code share one archive beside them, so one is removed only if no run that is left
names it, in its plan or in an earlier one.
"""

import contextlib
import re
import time
from collections.abc import Iterable
from pathlib import Path

from getiaction_launch.errors import LaunchError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.reading.find import list_runs
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import children, is_remote, modified_at, open_path, remove

YOUNG_SECONDS = 600.0
"""How long an archive is kept after a submission, whose runs may not have their plans yet."""
_PLAN = re.compile(r"plan(_before_attempt_\d+)?")


def archives_of(run: Run) -> set[str]:
    """Return the paths of all copies of code that a run has trained, relative to its root.

    Raises:
        LaunchError: If a plan is damaged, or remote storage does not answer.
    """
    names = (path.name.removesuffix(".json") for path in children(run.launch_directory))
    found = [run.read(name) for name in names if _PLAN.fullmatch(name)]
    codes = (Plan.from_json(content).code for content in found if content is not None)
    return {code.archive for code in codes if code and code.archive}


def remove_unused(root: Path, archives: Iterable[str]) -> list[Path]:
    """Remove those of these copies that no run needs; return what was removed.

    Args:
        root: The directory or URL that holds all runs.
        archives: Paths of copies, relative to the root, as :func:`archives_of` returns them.

    Raises:
        OSError: If one cannot be removed.
        StorageError: If remote storage does not answer.
    """
    candidates = set(archives)
    if not candidates:
        return []
    runs = list_runs(str(root))
    try:
        used = set().union(*for_each(archives_of, runs, root))
    except LaunchError:  # one whose plan is damaged may need any of them
        return []
    removed = []
    for name in sorted(candidates - used):
        path = open_path(root) / name
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            is_link = not is_remote(path) and (path.is_symlink() or path.parent.is_symlink())
            if not is_link and time.time() - modified_at(path) > YOUNG_SECONDS:
                remove(path)
                removed.append(path)
    return removed
