"""All attempts of a run, of which a look at remote storage has the first and the newest ones."""

import contextlib

from getiaction_launch.errors import RecordError
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.storage.at_once import ROUND_TRIPS, for_each


def read_all_attempts(status: RunStatus) -> list[AttemptRecord]:
    """Return every attempt of a run, the first one first; read those that its status lacks.

    An attempt whose record is damaged or missing is left out.

    Args:
        status: The status of the run, as it was just read.

    Raises:
        StorageError: If remote storage does not answer.
    """
    run = status.run
    found = {record.number: record for record in status.records}

    def read(number: int) -> AttemptRecord | None:
        with contextlib.suppress(RecordError):
            return AttemptRecord.read(run, number)
        return None

    for start in range(0, status.attempts, ROUND_TRIPS):
        numbers = range(start, min(start + ROUND_TRIPS, status.attempts))
        missing = [number for number in numbers if number not in found]
        records = [record for record in for_each(read, missing, run.directory) if record]
        found |= {record.number: record for record in records}
        if missing and not records:
            break  # so the number of the newest one says nothing
    return [found[number] for number in sorted(found)]
