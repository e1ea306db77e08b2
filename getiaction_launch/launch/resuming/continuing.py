"""What a run that has finished continues from, when it is to train for longer.

An attempt resumes from committed checkpoints, and only the launcher commits them. So the last
checkpoint of a finished run, which may be one of the user's callbacks, is copied and committed.
"""

import re
import shutil
import time
from pathlib import Path

from getiaction_launch.run.checkpoint import (
    Checkpoint,
    Marker,
    move_into_place,
    newest,
    size_bytes_of,
)
from getiaction_launch.run.finished import finished_fits, path_of
from getiaction_launch.run.records import Progress, read_attempts
from getiaction_launch.run.run import Run
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.paths import (
    children,
    file_system,
    is_remote,
    kind_of,
    modified_at,
    reaching,
    remove,
)

_STEP = re.compile(r"step=(\d+)")


def commit_end(run: Run, progress: Progress | None) -> Checkpoint | None:
    """Commit the last checkpoint of the run's only fit, unless a later one is committed already.

    Args:
        run: The run, which trains a spec: a program may have more than one fit.
        progress: What the worker of rank 0 last reported; None if training has not finished.

    Returns:
        The checkpoint that was committed by this call; None if there was nothing to do.

    Raises:
        OSError: If a file cannot be read or written.
        StorageError: If remote storage does not answer.
    """
    committed = newest(run)
    if end := finished_fits(run).get(0):
        found = _commit(run, path_of(run, 0), end.step, end.epoch)
        # Beware: a fit with other limits would take it for another fit's, and begin anew.
        remove(path_of(run, 0).with_suffix(".json"))
        remove(path_of(run, 0))
        return found
    last = _last_of_callbacks(run) if progress else None
    if progress is None or last is None:
        return None
    if committed and committed.saved_at >= modified_at(last):
        return None
    named = _STEP.search(last.name)
    step = int(named[1]) if named else progress.step or 0
    return _commit(run, last, max(step, committed.step if committed else 0), progress.epoch or 0)


def _last_of_callbacks(run: Run) -> Path | None:
    """Return the newest checkpoint in the run's ``checkpoints/``, where callbacks put them."""
    found = [path for path in children(run.directory / "checkpoints") if path.suffix == ".ckpt"]
    # A link, such as Lightning's last.ckpt, leads to one of the others, or out of the run.
    files = [path for path in found if is_remote(path) or not path.is_symlink()]
    return max(files, key=modified_at, default=None)


def _commit(run: Run, source: Path, step: int, epoch: int) -> Checkpoint:
    attempt = max(len(read_attempts(run)) - 1, 0)
    path = run.launch_directory / "checkpoints" / f"fit_0_step_{step}_end.ckpt"
    remove(path.with_suffix(".json"))
    remove(path)
    _copy(source, path)
    marker = Marker(attempt, 0, step, epoch, "end", size_bytes_of(path), time.time())
    marker.write(path)
    return Checkpoint(**vars(marker), path=path)


def _copy(source: Path, target: Path) -> None:
    if is_remote(source):
        if reason := why_refused(source.name):
            raise OSError(f"{source}: {reason}")
        with reaching(source):
            fs, key = file_system(source)
            fs.copy(key, file_system(target)[1], recursive=kind_of(source) == "directory")
        return
    partial = target.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    remove(partial)  # of a copy that was interrupted
    if source.is_dir():
        shutil.copytree(source, partial, symlinks=True)
    else:
        shutil.copy2(source, partial, follow_symlinks=False)
    move_into_place(partial, target)
