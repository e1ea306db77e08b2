"""What ties the loggers of a program to one run, over all attempts and on every machine."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from getiaction_launch.run.records import AttemptRecord, Record
from getiaction_launch.run.run import Run

GIVEN_VARIABLE = "GETIACTION_LAUNCH_GAVE"
"""Names of the variables below that the launcher has set, so that another run replaces them."""


@dataclass(frozen=True)
class LoggersRecord(Record):
    """``loggers.json``: where the program's loggers write. Written by the worker of rank 0.

    Attributes:
        versions: For each kind and place of a logger, the versions that Lightning chose, in order.
        run_ids: For each experiment of MLflow, the ids of the runs that were created, in order.
        rows: For each ``metrics.csv``, the rows that it had when each of its fits began.
    """

    NAME: ClassVar[str] = "loggers"

    versions: dict[str, list[int]] = field(default_factory=dict)
    run_ids: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[int]] = field(default_factory=dict)


def read_loggers(run: Run) -> LoggersRecord | None:
    """Read what earlier attempts have recorded, in a worker; None if they had no loggers.

    Another machine may have run the last attempt of a run on remote storage. Then only rank 0 asks
    there, as the other ranks write nothing.

    Args:
        run: The run that this worker belongs to, as it sees it.

    Raises:
        RecordError: If the file is damaged; the message names the file and the key.
        StorageError: If remote storage does not answer.
    """
    record = LoggersRecord.read(run)
    origin = os.environ.get("GETIACTION_LAUNCH_RUN", "")
    if record is None and "://" in origin and os.environ.get("RANK", "0") == "0":
        return LoggersRecord.read(Run.at(origin))
    return record


def identity(run: Run) -> str:
    """Return a name that no other run has, not even a later one in the same directory.

    It is the same in every attempt and on every machine, since it comes from the record of the
    first attempt.
    """
    first = AttemptRecord.read(run, 0) or AttemptRecord()
    text = f"{run.name} {first.key} {first.started_at!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def tracking_variables(run: Run, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that make experiment trackers continue one run over all attempts.

    W&B, Comet and Neptune start another run in each process unless one is named. Only the worker of
    rank 0 gets these variables, as ranks that log separately must not write into one run.

    Args:
        run: The run whose workers get the variables.
        environment: The environment of the workers without them; what the user has set there wins.
    """
    name = identity(run)
    trackers = (
        {"WANDB_RUN_ID": name[:16], "WANDB_RESUME": "allow"},
        {"COMET_EXPERIMENT_KEY": name},
        {"NEPTUNE_CUSTOM_RUN_ID": name},
    )
    given = environment.get(GIVEN_VARIABLE, "").split()  # by a run that has launched this one
    users = environment.keys() - set(given)
    free = [variables for variables in trackers if users.isdisjoint(variables)]
    chosen = {key: value for variables in free for key, value in variables.items()}
    return {**chosen, GIVEN_VARIABLE: " ".join(chosen)} if chosen else {}
