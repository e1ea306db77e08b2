"""The rank that failed first in an attempt, and what the other ranks only repeat."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from getiaction_launch.launch.logs.lines import read_lines
from getiaction_launch.launch.why.frames import fatal, quoted, user_frame
from getiaction_launch.launch.why.signs import Category, Meaning, meaning, says_little
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.text import shorten
from getiaction_launch.run.node_records import COLLECTIVE_TIMED_OUT, NodeEnd, WorkerError
from getiaction_launch.run.records import AttemptRecord, load
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.paths import children

MOST_RECORDS = 4096
TRACEBACK_LINES = 12
LOG_LINES = 12
READ_LINES = 200
LONGEST_LINE = 400
_CAUSES = {
    Cause.TIME_LIMIT: Category.TIME,
    Cause.PREEMPTION: Category.PREEMPTION,
    Cause.CANCEL: Category.CANCELLED,
    Cause.STOP: Category.STOPPED,
    Cause.NODE_FAILURE: Category.NODE,
    Cause.OUT_OF_MEMORY: Category.HOST_MEMORY,
    Cause.STALL: Category.STALL,
}
_UNEXPLAINED = "it ended without recording why"
_ABSENT = re.compile(
    rf"{COLLECTIVE_TIMED_OUT}: rank (?P<rank>\d{{1,9}}) on node (?P<node>\d{{1,9}}) "
    r"\((?P<host>[^()]{0,255})\)"
)


@dataclass(frozen=True)
class Evidence:
    """What a statement rests on.

    Attributes:
        source: The file that is quoted, relative to the run's directory, or who has said it.
        lines: The lines that matter.
    """

    source: str
    lines: list[str]


@dataclass(frozen=True)
class Failure:
    """How an attempt ended, and who was first.

    Attributes:
        category: Whose fault it is.
        rank: The rank that failed first; None if it was not a rank.
        node: Rank of its node; None if that is not known.
        host: Host name of that node; None if that is not known.
        error: What it failed with: ``ValueError: message``; else the recorded reason.
        where: Where the error left the user's own code; None if it did not come from there.
        echoes: The ranks whose errors only follow from the first one.
        same: The other ranks that failed with the same error.
        silent: The ranks that have reported nothing although all others only miss somebody.
        evidence: The files that say so.
    """

    category: Category
    rank: int | None = None
    node: int | None = None
    host: str | None = None
    error: str = ""
    where: str | None = None
    echoes: list[int] = field(default_factory=list)
    same: list[int] = field(default_factory=list)
    silent: list[int] = field(default_factory=list)
    evidence: list[Evidence] = field(default_factory=list)

    def is_like(self, other: "Failure") -> bool:
        """Whether another attempt has failed in the same way."""
        first, second = (re.sub(r"\d+", "N", f.error)[:200] for f in (self, other))
        return (self.category, self.where) == (other.category, other.where) and first == second


@dataclass(frozen=True)
class _Reported:
    """An error that a worker or its node has recorded, with what it means."""

    error: WorkerError
    path: Path
    log: list[str]
    meaning: Meaning

    @property
    def is_echo(self) -> bool:
        certain = self.error.is_consequence and self.meaning.category in _LOST
        return certain or self.meaning.is_echo


_LOST = (Category.NETWORK, Category.CODE, Category.UNKNOWN)


def find_failure(
    run: Run, record: AttemptRecord, plan: Plan | None, damaged: list[str]
) -> Failure | None:
    """Find out how an attempt ended; None if it runs, was successful, or nothing is recorded.

    Args:
        run: The run that the attempt belongs to.
        record: The record of the attempt.
        plan: The plan of the run; None if it cannot be read.
        damaged: Gets what cannot be read.
    """
    reported = list(_read_errors(run, record.number, damaged))
    is_known = any(not each.is_echo for each in reported)
    by_cause = _CAUSES.get(record.cause) if record.cause else None
    if record.state is JobState.SUCCEEDED:
        return None
    is_explained = by_cause not in (None, Category.HOST_MEMORY, Category.STALL)
    if by_cause is Category.NODE and is_known and record.reason.startswith(_UNEXPLAINED):
        is_explained = False  # its node of rank 0 was ended before it could record the error
    if is_explained and by_cause:
        return _from_reason(run, record, by_cause, reported)
    if reported:
        return _from_errors(run, record, plan, reported)
    if record.ended_at is None:
        return None
    if by_cause:
        return _from_reason(run, record, by_cause, reported)
    return _from_logs(run, record)


def _read_errors(run: Run, attempt: int, damaged: list[str]) -> Iterator[_Reported]:
    paths = sorted(run.error_files(attempt))[:MOST_RECORDS]

    def read(path: Path) -> _Reported | None:
        try:
            error = load(WorkerError, path)
        except (OSError, ValueError) as problem:
            damaged.append(str(problem).partition("\n")[0])
            return None
        if error is None:
            return None
        log: list[str] = []
        if not error.traceback or says_little(error.summary):
            log = log_tail(path.with_name(f"rank_{error.rank}.log"), READ_LINES)
            # What a loader's process has printed comes before the traceback of its worker.
            log = fatal(log, READ_LINES) or log[-(READ_LINES if error.traceback else LOG_LINES) :]
        return _Reported(error, path, log, meaning(error.summary, "\n".join(log)))

    known = (each for each in for_each(read, paths, run.directory) if each)
    return iter(sorted(known, key=lambda each: (each.is_echo, each.error.failed_at)))


def _from_errors(
    run: Run,
    record: AttemptRecord,
    plan: Plan | None,
    reported: Sequence[_Reported],
) -> Failure:
    first, *others = reported
    if first.is_echo and (absent := _ABSENT.match(record.reason)):
        return _from_timeout(record, absent, reported)
    error, category = first.error, first.meaning.category
    if first.error.type == "WorkerDied" and record.cause is Cause.OUT_OF_MEMORY:
        category = Category.HOST_MEMORY
    directory = plan.working_directory if plan else "/"
    crash = "\n".join(fatal(first.log, READ_LINES))
    said = crash or f"{error.traceback}\n{error.message}"
    if plan and plan.code:
        said = plan.code.with_typed_frames(said)
    same = [o.error.rank for o in others if o.meaning == first.meaning and _alike(o.error, error)]
    ranks = {each.error.rank for each in reported}
    world = range(plan.topology.world_size) if plan else ()
    silent = [rank for rank in world[:MOST_RECORDS] if rank not in ranks]
    return Failure(
        category,
        error.rank,
        error.node_rank,
        error.host or None,
        shorten(error.summary).rstrip(": "),  # a MemoryError has no words
        user_frame(said, directory),
        echoes=[each.error.rank for each in reported if each.is_echo and each is not first],
        same=same,
        silent=silent if first.is_echo else [],
        evidence=[*_evidence(run, first), *([_reason(record)] if first.is_echo else [])],
    )


def _from_timeout(
    record: AttemptRecord, absent: "re.Match[str]", reported: Sequence[_Reported]
) -> Failure:
    """Name the rank that did not arrive in a collective; those that waited report the timeout."""
    rank = int(absent["rank"])
    return Failure(
        Category.STALL,
        rank,
        int(absent["node"]),
        absent["host"] or None,
        shorten(record.reason),
        echoes=[each.error.rank for each in reported if each.error.rank != rank],
        evidence=[_reason(record)],
    )


def _reason(record: AttemptRecord) -> Evidence:
    lines = [f"cause: {record.cause.value}" if record.cause else "", f"reason: {record.reason}"]
    return Evidence(f"launch/attempt_{record.number}.json", list(filter(None, lines)))


def _alike(one: WorkerError, other: WorkerError) -> bool:
    return re.sub(r"\d+", "N", one.summary)[:200] == re.sub(r"\d+", "N", other.summary)[:200]


def _evidence(run: Run, first: _Reported) -> Iterator[Evidence]:
    place = relative(run, first.path)
    error = first.error
    if error.traceback:
        lines = quoted(error.traceback, TRACEBACK_LINES)
        yield Evidence(place, [line[:LONGEST_LINE] for line in lines])
        return
    yield Evidence(place, last_lines(error.summary, LOG_LINES))
    if first.log:
        log = first.path.with_name(f"rank_{error.rank}.log")
        lines = fatal(first.log, LOG_LINES) or first.log
        yield Evidence(relative(run, log), lines)


def _from_reason(
    run: Run, record: AttemptRecord, category: Category, reported: Sequence[_Reported]
) -> Failure:
    """Return what the attempt's own record says; the errors of its ranks are consequences."""
    named = re.search(r"\bnode (\d{1,9})\b", record.reason)
    node = int(named[1]) if named and category is Category.NODE else None
    evidence = [_reason(record)]
    if node is not None:
        with contextlib.suppress(OSError, ValueError):
            end = NodeEnd.read(run, record.number, node)
            if end and end.lost:
                path = run.log_directory(record.number) / f"node_{node}.json"
                evidence.append(Evidence(relative(run, path), last_lines(end.lost, LOG_LINES)))
    ranks = [each.error.rank for each in reported]
    return Failure(
        category, None, node, None, shorten(record.reason), echoes=ranks, evidence=evidence
    )


def _from_logs(run: Run, record: AttemptRecord) -> Failure:
    """Return what the logs say of an attempt in which no worker has recorded an error."""
    evidence = [Evidence(f"launch/attempt_{record.number}.json", [f"reason: {record.reason}"])]
    found = meaning(record.reason)
    with contextlib.suppress(OSError, ValueError):
        for path in sorted(children(run.log_directory(record.number)))[:MOST_RECORDS]:
            lines = log_tail(path) if path.suffix == ".log" else []
            said = meaning("no worker reported an error", "\n".join(lines))
            if said.category is not Category.UNKNOWN and not said.is_echo:
                evidence.append(Evidence(relative(run, path), lines))
                found = said if found.category is Category.UNKNOWN else found
                break
    return Failure(found.category, error=shorten(record.reason), evidence=evidence)


def log_tail(path: Path, lines: int = LOG_LINES) -> list[str]:
    """Return the last lines of a log; nothing if it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        found = [line for _, line in read_lines({"": path}, lambda: True, 2 * lines)]
        return last_lines("\n".join(found), lines)
    return []


def last_lines(text: str, lines: int) -> list[str]:
    """Return the last lines of a text that are not blank, each cut to a readable length."""
    kept = [line.rstrip() for line in re.split(r"\r*\n|\r+", text[-(1 << 20) :]) if line.strip()]
    return [line[:LONGEST_LINE] for line in kept[-lines:]]


def relative(run: Run, path: Path) -> str:
    """Return a file's path below the run's directory, or as it stands if it is elsewhere."""
    for home in (run.directory, run.local.directory):
        name = str(path)
        if name.startswith(f"{home}/"):
            return name[len(str(home)) + 1 :]
    return str(path)
