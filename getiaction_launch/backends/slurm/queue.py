"""What SLURM says of jobs: asked once for all jobs of a user and all processes that want to know.

A scheduler's controller serves a whole site, and watchers who ask it too often slow it down for
everybody. So one ``squeue`` for all of the user's jobs is kept on disk for a while, and whether
1 or 100 runs are watched, by one process or many, costs the same. Jobs that ``squeue`` has
forgotten are looked up in the accounting by ``sacct`` in the same way, where a site has one.

Plain text with a separator is read, and no JSON, whose shape changes between versions of SLURM.
"""

import contextlib
import hashlib
import math
import os
import pwd
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from getiaction_launch.backends.backend import JobStatus
from getiaction_launch.backends.slurm.command import COMMAND_SECONDS, call
from getiaction_launch.errors import LaunchError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.state import Cause, JobState
from getiaction_launch.storage.paths import read_json, write_json

LOCK_SECONDS = COMMAND_SECONDS + 5
"""How long to wait for the process that asks; then its answer is not waited for any more."""
RESTART_SECONDS = 60
"""How long after a node failed SLURM may take to put the job back into its queue."""
DAY_SECONDS = 24 * 3600

_STATES = {
    "PENDING": (JobState.PENDING, None, ""),
    "CONFIGURING": (JobState.PENDING, None, "its nodes are being prepared"),
    "REQUEUED": (JobState.PENDING, None, "requeued"),
    "REQUEUE_FED": (JobState.PENDING, None, "requeued"),
    "REQUEUE_HOLD": (JobState.PENDING, None, "requeued, but held"),
    "SPECIAL_EXIT": (JobState.PENDING, None, "requeued, but held"),
    "RESV_DEL_HOLD": (JobState.PENDING, None, "held, since its reservation was deleted"),
    "RUNNING": (JobState.RUNNING, None, ""),
    "COMPLETING": (JobState.RUNNING, None, "ending"),
    "SUSPENDED": (JobState.RUNNING, None, "suspended"),
    "STOPPED": (JobState.RUNNING, None, "stopped"),
    "SIGNALING": (JobState.RUNNING, None, ""),
    "STAGE_OUT": (JobState.RUNNING, None, ""),
    "RESIZING": (JobState.RUNNING, None, ""),
    "COMPLETED": (JobState.SUCCEEDED, None, ""),
    "FAILED": (JobState.FAILED, Cause.CRASH, "its job failed"),
    "OUT_OF_MEMORY": (JobState.FAILED, Cause.OUT_OF_MEMORY, "a node's memory limit was reached"),
    "NODE_FAIL": (JobState.FAILED, Cause.NODE_FAILURE, "a node failed"),
    "BOOT_FAIL": (JobState.FAILED, Cause.NODE_FAILURE, "a node did not boot"),
    "TIMEOUT": (JobState.INTERRUPTED, Cause.TIME_LIMIT, "its time limit was reached"),
    "DEADLINE": (JobState.INTERRUPTED, Cause.TIME_LIMIT, "its deadline has passed"),
    "PREEMPTED": (JobState.INTERRUPTED, Cause.PREEMPTION, "preempted"),
    "CANCELLED": (JobState.CANCELLED, Cause.CANCEL, "cancelled"),
}
_SILENT = ("", "None", "Unknown", "NonZeroExitCode", "TimeLimit", "OutOfMemory", "NodeDown")
_NO_ACCOUNTING = ("accounting storage is disabled", "sacct cannot be run here")
_RESTARTED = ("NODE_FAIL", "BOOT_FAIL", "PREEMPTED")
_HINTS = {
    "DependencyNeverSatisfied": "it will never start: scontrol update JobId={job_id} Dependency=",
    "JobHeldUser": "to let it start: scontrol release {job_id}",
}


@dataclass(frozen=True)
class Answer(JobStatus):
    """What SLURM said of a job, and when.

    Attributes:
        as_of: When it was asked, in seconds since the epoch.
        is_forgotten: Whether it answered that there is no such job.
    """

    as_of: float = 0
    is_forgotten: bool = False


@dataclass(frozen=True)
class Row:
    """One job in a listing.

    Attributes:
        word: SLURM's for its state.
        reason: SLURM's, for a job that waits or has failed.
        start: When it has started or may start, in seconds since the epoch; 0 if unknown.
        end: When it has ended or must end, in seconds since the epoch; 0 if unknown.
    """

    word: str
    reason: str = ""
    start: float = 0
    end: float = 0


@dataclass(frozen=True)
class Listing:
    """What one command said of all jobs of this user.

    Attributes:
        asked_at: When it was last asked, in seconds since the epoch.
        as_of: When it last answered.
        since: Jobs that ended before that are not in it.
        error: Why it did not answer, in one line.
        is_absent: Whether it never will, because this site has no accounting.
        jobs: By id.
    """

    asked_at: float = 0
    as_of: float = 0
    since: float = math.inf
    error: str = ""
    is_absent: bool = False
    jobs: dict[str, Row] = field(default_factory=dict)

    def serves(self, newer_than: float, since: float) -> bool:
        """Whether it need not be asked again to know of jobs since then."""
        if self.is_absent:
            return self.asked_at >= newer_than - DAY_SECONDS
        return self.asked_at >= newer_than and (self.since <= since or bool(self.error))


def ask(
    job_id: str, uid: int, poll_seconds: float, submitted_at: float, *, fresh: bool = False
) -> Answer:
    """Say where a job stands, without asking SLURM more often than it likes.

    Args:
        job_id: ``123``, or ``123_4`` for an element of an array.
        uid: Whose job it is.
        poll_seconds: How old the answer may be.
        submitted_at: When the job was submitted, in seconds since the epoch.
        fresh: Whether the answer must be younger than this call.
    """
    now = time.time()
    queue = _queue(uid, now if fresh else now - poll_seconds, must_wait=fresh)
    row = queue.jobs.get(job_id)
    if queue.error:
        then = f" ({row.word} {now - queue.as_of:.0f} s ago)" if row else ""
        return Answer(JobState.UNKNOWN, queue.error + then, as_of=queue.as_of)
    if row is None and submitted_at > queue.as_of:
        reason = f"submitted {max(0, now - submitted_at):.0f} s ago"
        return Answer(JobState.PENDING, reason, as_of=queue.as_of)
    if row is None:
        accounting = _accounting(uid, now - poll_seconds, submitted_at)
        if told := accounting.jobs.get(job_id):
            return _answer(job_id, told, accounting.as_of)
        reason = f"SLURM has forgotten job {job_id}"
        if accounting.error:
            reason += f", and its accounting does not tell: {accounting.error}"
        return Answer(JobState.UNKNOWN, reason, as_of=queue.as_of, is_forgotten=True)
    if row.word == "FAILED":
        # The job of a step that was out of memory has only failed; the accounting knows steps.
        told = _accounting(uid, min(row.end, now), submitted_at).jobs.get(job_id)
        if told and told.word == "OUT_OF_MEMORY":
            row = told
    return _answer(job_id, row, queue.as_of)


def find_step(step_id: str, uid: int, poll_seconds: float, started_at: float) -> bool | None:
    """Whether a step, ``123.0``, is there; None if that is not known.

    Args:
        step_id: Whose job is there.
        uid: Whose it is.
        poll_seconds: How old the answer may be.
        started_at: When the step was, in seconds since the epoch.
    """

    def question(_known: Listing) -> Listing:
        said = call("squeue", f"--user={uid}", "--steps", "--noheader", "--format=%i")
        return Listing(since=0, jobs={name: Row("RUNNING") for name in said.split()})

    steps = _listing("steps", uid, time.time() - poll_seconds, 0, question, must_wait=False)
    if steps.error or steps.as_of < started_at:
        return None
    return step_id in steps.jobs


def _answer(job_id: str, row: Row, as_of: float) -> Answer:
    word, _, canceller = row.word.partition(" by ")
    if word not in _STATES:
        return Answer(JobState.UNKNOWN, f"SLURM calls its job {row.word}", as_of=as_of)
    state, cause, text = _STATES[word]
    if word in _RESTARTED and abs(as_of - row.end) < RESTART_SECONDS:
        reason = f"{text}; SLURM may start its job again"
        return Answer(JobState.PENDING, reason, as_of=as_of)
    if canceller:
        text = f"cancelled by {_user_name(canceller)}"
    told = "" if row.reason in _SILENT else row.reason
    if state is JobState.CANCELLED and told != "DependencyNeverSatisfied":
        told = ""  # why it once waited
    if state is JobState.PENDING and (hint := _HINTS.get(told)):
        told = f"{told}; {hint.format(job_id=job_id)}"
    if state is JobState.PENDING and row.start > as_of:
        estimate = time.strftime("%b %d %H:%M", time.localtime(row.start))
        told = f"{told}; SLURM expects to start it on {estimate}".removeprefix("; ")
    return Answer(state, ": ".join(filter(None, [text, told])), cause, as_of=as_of)


def _user_name(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (ValueError, KeyError):
        return f"user {uid}"


def _queue(uid: int, newer_than: float, *, must_wait: bool) -> Listing:
    def question(_known: Listing) -> Listing:
        return Listing(since=0, jobs=_ask_squeue(uid))

    return _listing("squeue", uid, newer_than, 0, question, must_wait=must_wait)


def _accounting(uid: int, newer_than: float, submitted_at: float) -> Listing:
    def question(known: Listing) -> Listing:
        # Far enough back that this user's other old jobs need no question of their own.
        now = time.time()
        since = submitted_at - 2 * max(now - submitted_at, DAY_SECONDS)
        if now - known.asked_at < DAY_SECONDS:
            since = min(since, known.since)
        return Listing(since=since, jobs=_ask_sacct(uid, since))

    return _listing("sacct", uid, newer_than, submitted_at, question, must_wait=True)


def _listing(
    command: str,
    uid: int,
    newer_than: float,
    since: float,
    question: Callable[[Listing], Listing],
    *,
    must_wait: bool,
) -> Listing:
    """What is known by ``command``, asking it again only where no other process has."""
    import filelock

    cache = _cache(command, uid)
    known = _read(cache)
    if known.serves(newer_than, since):
        return known
    # While another process asks, what was known a moment ago is good enough.
    is_recent = not must_wait and known.as_of > newer_than - (time.time() - newer_than)
    with contextlib.ExitStack() as stack:
        try:
            lock = filelock.FileLock(cache.with_suffix(".lock"))
            stack.enter_context(lock.acquire(timeout=0 if is_recent else LOCK_SECONDS))
        except filelock.Timeout:
            if is_recent:
                return known
        except OSError:
            pass  # a home directory that is full or cannot lock; then every process asks
        known = _read(cache)
        if known.serves(newer_than, since):
            return known
        asked_at = time.time()
        try:
            listing = replace(question(known), asked_at=asked_at, as_of=asked_at)
        except LaunchError as error:
            words = str(error).partition("\n")[0]
            is_absent = any(sign in words.lower() for sign in _NO_ACCOUNTING)
            listing = replace(known, asked_at=asked_at, error=words, is_absent=is_absent)
        with contextlib.suppress(OSError):
            cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(cache, asdict(listing), durable=False)
        return listing


def _cache(command: str, uid: int) -> Path:
    """The file that all processes of the user who asks share on this machine.

    Clusters may share a home directory, but no login node.
    """
    import platformdirs

    place = f"{socket.gethostname()} {os.environ.get('SLURM_CONF')} {uid}"
    digest = hashlib.sha256(place.encode()).hexdigest()[:16]
    directory = platformdirs.user_cache_dir("getiaction-launch")
    return Path(directory, f"{command}_{digest}.json")


def _read(cache: Path) -> Listing:
    try:
        listing = read_dataclass(Listing, read_json(cache) or {}, str(cache))
    except (OSError, ValueError):
        return Listing()
    # A clock that was set back must not keep an answer alive.
    return listing if listing.asked_at <= time.time() + RESTART_SECONDS else Listing()


def _ask_squeue(uid: int) -> dict[str, Row]:
    said = call(
        "squeue",
        f"--user={uid}",
        "--states=all",
        "--array",
        "--noheader",
        "--format=%i|%T|%S|%e|%r",
    )
    rows = {}
    for line in said.splitlines():
        with contextlib.suppress(ValueError):  # a line of the site's own
            job_id, word, start, end, reason = line.strip().split("|", 4)
            rows[job_id] = Row(word, reason, _seconds(start), _seconds(end))
    return rows


def _ask_sacct(uid: int, since: float) -> dict[str, Row]:
    hours = math.ceil((time.time() - since) / 3600)
    said = call(
        "sacct",
        f"--user={uid}",
        f"--starttime=now-{hours}hours",
        "--noheader",
        "--parsable2",
        "--format=JobID,State,End",
    )
    rows: dict[str, Row] = {}
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            name, word, end = line.strip().split("|")
            job_id, _, step = name.partition(".")
            if not step:
                rows[job_id] = Row(word, end=_seconds(end))
            elif word == "OUT_OF_MEMORY" and job_id in rows and rows[job_id].word == "FAILED":
                rows[job_id] = replace(rows[job_id], word=word)
    return rows


def _seconds(stamp: str) -> float:
    return float(stamp) if stamp.isdecimal() else 0
