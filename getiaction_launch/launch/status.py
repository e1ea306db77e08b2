"""The state of a run, read from its directory first and then from its scheduler."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from getiaction_launch.backends.backend import Backend, Job, JobStatus, load_backend
from getiaction_launch.errors import RecordError, UnreachableError
from getiaction_launch.launch.listing.below import Found, look
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.plan.plan import SweepPoint
from getiaction_launch.plan.text import shorten
from getiaction_launch.run.attempt import read_end
from getiaction_launch.run.beats.records import NodeBeats, read_beats
from getiaction_launch.run.reading.summary import Look, Summary, look_at
from getiaction_launch.run.records import AttemptRecord, JobRecord, Progress, read_attempts
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.at_once import ROUND_TRIPS, for_each
from getiaction_launch.storage.paths import is_remote

NOT_LAUNCHED = "NOT_LAUNCHED"
"""State of a run that `getiaction fit` or another program has started, in the same directory."""
LOST_SECONDS = 120  # how long to keep asking a scheduler that does not answer
WATCH_SECONDS = 0.5  # a watcher must not take CPU from training on the same machine
REMOTE_WATCH_SECONDS = 2.0  # nothing changes there more often, and each look costs
MOST_WATCH_SECONDS = 15.0
MOST_ROUND_SECONDS = 60.0
"""How long to wait between two looks at most, however many runs are watched."""
WATCH_SHARE = 0.01
"""By how much the time between two looks at remote storage grows, of the time since the first."""


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, as read from its directory and its scheduler.

    Attributes:
        run: The run that was looked at.
        state: Where the run stands.
        reason: Why the run stands there, in the worker's or the scheduler's words.
        cause: What ended the run, if it did not finish.
        attempts: How many attempts have begun.
        progress: What the worker of rank 0 last reported.
        is_queued: Whether the run's job waits for nodes that are not free at present.
        is_certain: Whether the run's records, its scheduler or its machine have said so; otherwise
            the state follows from what the job last wrote.
        beats: What the ranks of each node do, while the run is running.
        job: What the run's scheduler or machine has answered; None if it was not asked.
        records: Every attempt so far, the first one first; of a run of many attempts on remote
            storage, only the first one and the newest ones.
        summary: What the records of a run on remote storage say together, where it has that.
        unlaunched: The run as its files show it; None for one that this launcher has started.
    """

    run: Run
    state: JobState
    reason: str = ""
    cause: Cause | None = None
    attempts: int = 0
    progress: Progress = field(default_factory=Progress)
    is_queued: bool = False
    is_certain: bool = True
    beats: tuple[NodeBeats, ...] = ()
    job: JobStatus | None = None
    records: tuple[AttemptRecord, ...] = ()
    summary: Summary | None = None
    unlaunched: Found | None = None

    @property
    def shown_state(self) -> str:
        """Where the run stands, in a word; of a run that nobody launched, nobody can say that."""
        return NOT_LAUNCHED if self.unlaunched else self.state.value


def attach(run: Run) -> Job | None:
    """Find the job of a run that any shell submitted; None if it was never submitted.

    Raises:
        UnreachableError: If the backend that the job's record names cannot be used here.
    """
    record = JobRecord.read(run)
    return backend_of(run, record).attach(run, record) if record else None


def backend_of(run: Run, record: JobRecord) -> Backend:
    """Make the backend that ``job.json`` names.

    Raises:
        UnreachableError: If there is no such backend here, or its settings do not fit.
    """
    return load_backend(record.backend, f"{run.launch_directory / 'job.json'}")


def read_status(run: Run) -> RunStatus:
    """Read the state of a run from its directory, then from its job.

    Only ``done.json`` means success. A run whose records are damaged is UNKNOWN, with the reason.

    Args:
        run: The run, or a look at it that was just taken.
    """
    try:
        status = _judge(run if isinstance(run, Look) else look_at(run))
    except Exception as error:  # noqa: BLE001 - one damaged run must not hide the others from `ls`
        status = _unreadable(run, error)
    run = Run(run.directory) if isinstance(run, Look) else run
    return replace(status, run=run, reason=shorten(status.reason))


def _unreadable(run: Run, error: Exception) -> RunStatus:
    known = isinstance(error, (UnreachableError, ValueError, OSError))
    words = str(error) if known else f"{type(error).__name__}: {error}"
    reason = shorten(f"its records cannot be read: {words}")
    return RunStatus(run, JobState.UNKNOWN, reason)


def _judge(run: Run) -> RunStatus:
    """Read the status from a look at the run, and from its records where that is not enough."""
    status = _read_status(run)
    if not isinstance(run, Look):
        return status
    is_recorded = status.job is None and status.state.is_over
    lives = status.job is not None and status.state in (JobState.RUNNING, JobState.PENDING)
    if is_recorded or lives:
        return replace(status, summary=run.summary)
    # What was written since the look may say how the run ended, or which job has continued it.
    return _read_status(Run(run.directory))


def _read_status(run: Run) -> RunStatus:
    if ended := _read_ended(run):
        return ended
    job = attach(run)
    status = job.status() if job else None
    # The job may have ended and written its last record since the records were read.
    if status and status.state.is_over and (ended := _read_ended(run)):
        return ended
    progress, attempts = Progress.read(run) or Progress(), read_attempts(run)
    if status is None:
        if (found := look(run.directory)) and not found.is_launched:
            return not_launched(found)
        return RunStatus(run, JobState.PENDING, "it was not submitted yet", progress=progress)
    state, reason = status.state, status.reason
    if state is JobState.SUCCEEDED:
        state, reason = JobState.FAILED, "its job has ended, but training has not finished"
    cause = status.cause
    if state is JobState.FAILED and attempts and attempts[-1].ended_at is None:
        reason, cause = _explain(run, attempts[-1].number, reason, cause)
    begun = _begun(attempts)
    if state is JobState.PENDING and attempts:
        reason = "; ".join(filter(None, [f"attempt {begun} is queued", reason]))
        reason += f" (attempt {begun - 1}: {attempts[-1].reason})"
    return RunStatus(
        *(run, state, reason, cause, begun, progress),
        is_queued=status.is_queued,
        is_certain=status.is_certain,
        beats=_beats(run, attempts) if state is JobState.RUNNING else (),
        job=status,
        records=tuple(attempts),
    )


def _begun(attempts: Sequence[AttemptRecord]) -> int:
    """Return how many attempts have begun, of which only some may be here."""
    return attempts[-1].number + 1 if attempts else 0


def not_launched(found: Found) -> RunStatus:
    """Return the status of a run that this launcher has not started.

    Args:
        found: The run, as its files show it.
    """
    reason = "it was not started by this launcher, so nobody can say whether it still trains"
    return RunStatus(found.run, JobState.UNKNOWN, reason, unlaunched=found)


def _beats(run: Run, attempts: Sequence[AttemptRecord]) -> tuple[NodeBeats, ...]:
    if not attempts or attempts[-1].ended_at is not None:
        return ()  # between two attempts
    attempt, site = attempts[-1].number, attempts[-1].site
    with contextlib.suppress(OSError):  # the state is known all the same
        known = run.summary.beats if isinstance(run, Look) and run.summary else []
        here = {node.node_rank: node for node in known if node.attempt == attempt}
        if not here or site is None:
            return tuple(read_beats(run, attempt))
        others = [rank for rank in range(site.num_nodes) if rank not in here]
        there = for_each(partial(_read_beats, run, attempt), others, run.directory)
        found = [*here.values(), *(node for node in there if node)]
        return tuple(sorted(found, key=lambda node: node.node_rank))
    return ()


def _read_beats(run: Run, attempt: int, node_rank: int) -> NodeBeats | None:
    with contextlib.suppress(RecordError):  # damaged: it must not hide the others
        return NodeBeats.read(run, attempt, node_rank)
    return None


def _explain(run: Run, attempt: int, reason: str, cause: Cause | None) -> tuple[str, Cause | None]:
    """Return why an attempt failed whose node of rank 0 could not record it, by its workers."""
    error = None
    with contextlib.suppress(ValueError, OSError):  # one damaged run must not hide the others
        error = run.first_error(attempt)
    if error is None or error.is_consequence:
        return reason, cause
    if error.type == "OutOfMemory":
        return str(error), Cause.OUT_OF_MEMORY
    # If a node was lost, the errors of the others are its consequences.
    return (reason, cause) if cause is Cause.NODE_FAILURE else (str(error), cause)


def read_statuses(runs: Sequence[Run]) -> list[RunStatus]:
    """Read the status of each run; on remote storage, of several runs at the same time."""
    return for_each(read_status, runs, runs[0].directory) if runs else []


class Watched:
    """A run that is looked at again and again; on remote storage, only what is new is read.

    Args:
        run: The run to look at.

    Attributes:
        newest_attempt: Number of the newest attempt that was seen, from 0.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.newest_attempt = 0
        self._look: Run | None = None

    def read_status(self) -> RunStatus:
        """Look at the run, and read its status as :func:`read_status` does."""
        try:
            self._look = look_at(self.run, self._look)
        except (OSError, ValueError) as error:
            self._look = None
            return _unreadable(self.run, error)
        status = read_status(self._look)
        self.newest_attempt = max(self.newest_attempt, status.attempts - 1)
        return replace(status, run=self.run)


def _read_ended(run: Run) -> RunStatus | None:
    end = read_end(run)
    if end.ending is None:
        return None
    state, cause, reason = end.ending.state, end.ending.cause, end.ending.reason
    progress = end.done or Progress.read(run) or Progress()
    attempts = tuple(end.attempts)
    return RunStatus(run, state, reason, cause, _begun(attempts), progress, records=attempts)


def sweep_of(run: Run) -> SweepPoint | None:
    """Read a run's point of a sweep; None for a run on its own, or if its plan is damaged."""
    if isinstance(run, Look) and run.summary:
        return run.summary.sweep
    try:
        content = (run.read("plan") or {}).get("sweep")
        return read_dataclass(SweepPoint, content, "plan.json") if content else None
    except (OSError, ValueError, AttributeError):  # damaged, or of another program
        return None


def sweeps_of(runs: Sequence[Run]) -> list[SweepPoint | None]:
    """Read each run's point of a sweep; on remote storage, of several runs at the same time."""
    return for_each(sweep_of, runs, runs[0].directory) if runs else []


def wait(run: Run, watch: Callable[[RunStatus], None] | None = None) -> RunStatus:
    """Wait for the end of a run.

    Args:
        run: The run to wait for.
        watch: Called with the run's status each time it was read; None to wait silently.

    Returns:
        How the run ended, or UNKNOWN if its state could not be read for :data:`LOST_SECONDS`.
    """
    return wait_for([run], lambda statuses: watch(statuses[0]) if watch else None)[0]


def wait_for(runs: Sequence[Run], watch: Callable[[Sequence[RunStatus]], None]) -> list[RunStatus]:
    """Wait until all of these runs have ended.

    Args:
        runs: The runs to wait for, at least one.
        watch: Called with the newest status of each run whenever those that had not ended were
            read.

    Returns:
        How each run ended, or UNKNOWN if its state could not be read for :data:`LOST_SECONDS`.
    """
    found: dict[Run, RunStatus] = {}
    begun_at = time.monotonic()
    unseen_at: dict[Run, float] = {}  # when the first look failed of those since the last good one
    watched = {run: Watched(run) for run in runs}
    left = list(runs)
    while True:
        each = [watched[run] for run in left]
        for status in for_each(Watched.read_status, each, runs[0].directory):
            found[status.run] = status
            if status.state is JobState.UNKNOWN:
                unseen_at.setdefault(status.run, time.monotonic())
            else:
                unseen_at.pop(status.run, None)
        watch([found[run] for run in runs])
        lost_at = time.monotonic() - LOST_SECONDS
        lost = {run for run, failed_at in unseen_at.items() if failed_at <= lost_at}
        left = [run for run in left if not found[run].state.is_over and run not in lost]
        if not left:
            return [found[run] for run in runs]
        period = watch_seconds(runs[0], time.monotonic() - begun_at)
        many = math.ceil(len(left) / ROUND_TRIPS)  # many runs are looked at less often
        time.sleep(min(period * many, MOST_ROUND_SECONDS))


def watch_seconds(run: Run, watched_seconds: float) -> float:
    """Return how long to wait until the next look at a run, in seconds.

    On remote storage, where each look is paid for, this grows with the time that a watcher has
    waited already.

    Args:
        run: The run that is watched.
        watched_seconds: For how long it has been watched.
    """
    if not is_remote(run.directory):
        return WATCH_SECONDS
    share = watched_seconds * WATCH_SHARE
    return min(max(REMOTE_WATCH_SECONDS, share), MOST_WATCH_SECONDS)
