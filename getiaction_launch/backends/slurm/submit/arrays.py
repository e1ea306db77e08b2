"""How a sweep is divided into job arrays, of which a site limits the size (``MaxArraySize``)."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from getiaction_launch.backends.slurm.command import call, configured
from getiaction_launch.errors import CheckError, LaunchError
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run


@dataclass(frozen=True)
class Part:
    """One array of a sweep.

    Attributes:
        first: Number of its first point, from 0.
        end: Number of the point behind its last one.
        limit: How many of its elements may run at the same time.
        after: Number of the array that must have ended before this one starts; None if it need not
            wait.
    """

    first: int
    end: int
    limit: int
    after: int | None


def divide(num_runs: int, max_parallel: int | None) -> list[Part]:
    """Divide the points of a sweep into as few arrays as the site allows.

    SLURM can limit how many elements of one array run at the same time, but not those of several.
    So an array waits for the end of the one before it. If more points may run at the same time than
    one array can have, there are several such queues, which share ``max_parallel``.

    Args:
        num_runs: How many points the sweep has.
        max_parallel: How many of them may run at the same time; None for all.
    """
    largest = _largest() or num_runs
    firsts = range(0, num_runs, largest)
    if max_parallel is None or max_parallel >= num_runs:
        return [Part(i, min(i + largest, num_runs), largest, None) for i in firsts]
    queues = math.ceil(max_parallel / largest)
    share, rest = divmod(max_parallel, queues)
    return [
        Part(
            first,
            min(first + largest, num_runs),
            share + (number % queues < rest),
            number - queues if number >= queues else None,
        )
        for number, first in enumerate(firsts)
    ]


def _largest() -> int | None:
    """Return how many elements an array may have here; None if the site does not say.

    ``MaxArraySize`` is above the highest index, and indices begin with 0. A site that sets it to 0
    has no arrays.
    """
    said = configured("MaxArraySize")
    return max(1, int(said)) if said and said.isdecimal() else None


def check_waiting(parts: Sequence[Part], dependency: str | None) -> None:
    """Check that arrays can wait for each other and for what the user has named.

    Args:
        parts: The arrays of a sweep.
        dependency: What the user has asked for, if anything.

    Raises:
        CheckError: If the dependency has alternatives, which sbatch does not combine with another.
    """
    if dependency and "?" in dependency and any(part.after is not None for part in parts):
        raise CheckError(
            f"--dependency {dependency!r} has alternatives (?), and this sweep is larger than one "
            "job array, so that its arrays must also wait for each other.",
            "Leave out --max-parallel, or use several commands with fewer points.",
        )


def waiting(dependency: str | None, job_id: str | None) -> str | None:
    """Return a dependency that also waits for the end of a job, however it ends.

    Args:
        dependency: What the user has asked for, if anything.
        job_id: Id of the job, if there is one.
    """
    return ",".join(filter(None, [dependency, job_id and f"afterany:{job_id}"])) or None


def withdraw(job_ids: Sequence[str], runs: Sequence[Run]) -> None:
    """Cancel arrays of a sweep of which one was refused or could not be recorded.

    If that fails, their runs keep their records, so that they can still be cancelled. A run whose
    record names another job, as one that is being resumed, keeps it.

    Args:
        job_ids: Ids of the arrays that were submitted.
        runs: The runs in those arrays.
    """
    if not job_ids:
        return
    try:
        call("scancel", *job_ids)
    except LaunchError:
        return
    for run in runs:
        with contextlib.suppress(OSError, LaunchError):  # the error that led here says more
            record = JobRecord.read(run)
            if record and record.job_id.partition("_")[0] in job_ids:
                JobRecord.remove(run)


@contextlib.contextmanager
def withdrawn_on_failure(job_id: str, runs: Sequence[Run]) -> Iterator[None]:
    """Cancel an array if its runs cannot be recorded in this context: nobody could find its jobs.

    Args:
        job_id: Id of the array, which was submitted.
        runs: The runs of its elements.
    """
    try:
        yield
    except (LaunchError, OSError):
        withdraw([job_id], runs)
        raise
