"""All attempts of a run, of which a look at remote storage has the first and the newest ones."""

from getiaction_launch.launch.status import RunStatus
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.storage.at_once import ROUND_TRIPS, for_each


def read_all_attempts(status: RunStatus) -> list[AttemptRecord]:
    """Return every attempt of a run, the first one first; read those that its status lacks.

    Args:
        status: The status of the run, as it was just read.

    Raises:
        RecordError: If a record is damaged.
        StorageError: If remote storage does not answer.
    """
    run, found = status.run, dict[int, AttemptRecord]()
    known = {record.number: record for record in status.records}

    def read(number: int) -> AttemptRecord | None:
        return known.get(number) or AttemptRecord.read(run, number)

    while len(found) < status.attempts:
        numbers = range(len(found), min(len(found) + ROUND_TRIPS, status.attempts))
        records = for_each(read, numbers, run.directory)
        found |= {record.number: record for record in records if record}
        if None in records:
            break
    return list(found.values())
