"""The newest attempt of a run, which costs as much to find after a hundred others as after one."""

import itertools

from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children


def count_attempts(run: Run) -> int:
    """Return how many attempts have begun: by one listing, and not by a look at each.

    Raises:
        StorageError: If remote storage does not answer.
    """
    names = {path.name for path in children(run.launch_directory)}
    return next(n for n in itertools.count() if f"attempt_{n}.json" not in names)


def newest_record(run: Run) -> AttemptRecord | None:
    """Read the record of the newest attempt; None if none has begun.

    Raises:
        RecordError: If the file is damaged; the message names the file and the key.
        StorageError: If remote storage does not answer.
    """
    count = count_attempts(run)
    return AttemptRecord.read(run, count - 1) if count else None
