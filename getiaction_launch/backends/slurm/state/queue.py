"""The states of jobs in SLURM, asked for once for all jobs of a user and all processes.

A scheduler's controller serves a whole site, and asking it too often slows it down for everybody.
So the output of one ``squeue`` for all of the user's jobs is kept on disk for a while; watching
100 runs, by one process or by many, costs no more than watching one. Jobs that ``squeue`` does not
list any more are looked up by ``sacct`` in the same way, if the site has accounting.

The commands' output is read as text with separators, not as JSON, whose structure differs between
versions of SLURM.
"""

import contextlib
import hashlib
import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from getiaction_launch.backends.slurm.command import COMMAND_SECONDS, call
from getiaction_launch.backends.slurm.state.states import (
    NEVER_SATISFIED,
    RESTART_SECONDS,
    Answer,
    Row,
    plain_word,
    read_answer,
)
from getiaction_launch.errors import LaunchError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import read_json, write_json

LOCK_SECONDS = COMMAND_SECONDS + 5
"""How long to wait for another process that is asking SLURM, before asking it here, too."""
LAST_WORD_SECONDS = 30
"""How long SLURM's accounting may take to say which of a failed job's steps ran out of memory."""
ACCOUNTING_POLL_SECONDS = 2
DAY_SECONDS = 24 * 3600

_NO_ACCOUNTING = ("accounting storage is disabled", "sacct cannot be run here")


@dataclass(frozen=True)
class Listing:
    """The output of one command about all jobs of this user.

    Attributes:
        asked_at: When the command was last run, in seconds since the epoch.
        as_of: When the command last succeeded, in seconds since the epoch.
        since: Jobs that ended earlier are not listed; in seconds since the epoch.
        error: Why the command failed, in one line; empty if it succeeded.
        is_absent: Whether the command cannot succeed, because this site has no accounting.
        jobs: The jobs that are listed, by their ids.
    """

    asked_at: float = 0
    as_of: float = 0
    since: float = math.inf
    error: str = ""
    is_absent: bool = False
    jobs: dict[str, Row] = field(default_factory=dict)

    def serves(self, newer_than: float, since: float) -> bool:
        """Whether the command need not be run again.

        Args:
            newer_than: How old the listing may be, in seconds since the epoch.
            since: When the oldest job of interest was submitted, in seconds since the epoch.
        """
        if self.is_absent:
            return self.asked_at >= newer_than - DAY_SECONDS
        return self.asked_at >= newer_than and (self.since <= since or bool(self.error))


def ask(
    job_id: str, uid: int, poll_seconds: float, submitted_at: float, *, fresh: bool = False
) -> Answer:
    """Return the state of a job, without asking SLURM more often than once in ``poll_seconds``.

    Args:
        job_id: Id of the job: ``123``, or ``123_4`` for an element of an array.
        uid: User id of the job's owner.
        poll_seconds: How old the answer may be, in seconds.
        submitted_at: When the job was submitted, in seconds since the epoch.
        fresh: Whether SLURM must be asked after this call began, and its accounting need not have
            the last word.
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
        if found := accounting.jobs.get(job_id):
            return read_answer(job_id, found, accounting.as_of)
        reason = f"SLURM has forgotten job {job_id}"
        if accounting.error:
            reason += f", and sacct cannot look it up: {accounting.error}"
        array = f"{job_id.partition('_')[0]}_" if "_" in job_id else None
        has_array = array and any(
            name.startswith(array) for name in (*queue.jobs, *accounting.jobs)
        )
        gone = Answer(JobState.UNKNOWN, reason, as_of=queue.as_of, is_forgotten=True)
        return replace(gone, is_known_array=bool(has_array))
    if plain_word(row.word) == "FAILED":
        return _failure(job_id, uid, submitted_at, row, queue.as_of, must_answer=fresh)
    return read_answer(job_id, row, queue.as_of)


def _failure(
    job_id: str, uid: int, submitted_at: float, row: Row, as_of: float, *, must_answer: bool
) -> Answer:
    """Return the state of a job that squeue shows as failed.

    If a step ran out of memory, only the accounting knows, and it may learn of it later; until
    then the job counts as running, unless ``must_answer``.
    """
    now = time.time()
    accounting = _accounting(uid, min(row.end, now), submitted_at)
    is_recent = not must_answer and now - row.end < LAST_WORD_SECONDS
    if is_recent and not _has_last_word(accounting, job_id):
        accounting = _accounting(uid, now - ACCOUNTING_POLL_SECONDS, submitted_at)
        if not _has_last_word(accounting, job_id):
            reason = "its job failed; waiting for SLURM's accounting to say why"
            return Answer(JobState.RUNNING, reason, as_of=as_of)
    found = accounting.jobs.get(job_id)
    is_oom = found is not None and plain_word(found.word) == "OUT_OF_MEMORY"
    row = replace(row, exit_code=found.exit_code) if found else row
    return read_answer(job_id, found if found and is_oom else row, as_of)


def _has_last_word(accounting: Listing, job_id: str) -> bool:
    found = accounting.jobs.get(job_id)
    is_over = found is not None and plain_word(found.word) not in (None, "RUNNING", "PENDING")
    return accounting.is_absent or (found is not None and is_over and found.is_final)


def forget_queue(uid: int) -> None:
    """Ask SLURM at the next look, since something has just changed.

    Args:
        uid: User id of the owner of the jobs.
    """
    with contextlib.suppress(OSError):
        _cache("squeue", uid).unlink(missing_ok=True)


def find_step(step_id: str, uid: int, poll_seconds: float, started_at: float) -> bool | None:
    """Whether a step of a running job still exists; None if that is not known.

    Args:
        step_id: Id of the step, with that of its job: ``123.0``.
        uid: User id of the step's owner.
        poll_seconds: How old the answer may be, in seconds.
        started_at: When the step started, in seconds since the epoch.
    """

    def question(_known: Listing) -> Listing:
        said = call("squeue", f"--user={uid}", "--steps", "--noheader", "--format=%i")
        return Listing(since=0, jobs={name: Row("RUNNING") for name in said.split()})

    steps = _listing("steps", uid, time.time() - poll_seconds, 0, question, must_wait=False)
    if steps.error or steps.as_of < started_at:
        return None
    return step_id in steps.jobs


def _queue(uid: int, newer_than: float, *, must_wait: bool) -> Listing:
    def question(_known: Listing) -> Listing:
        return Listing(since=0, jobs=_ask_squeue(uid))

    return _listing("squeue", uid, newer_than, 0, question, must_wait=must_wait)


def _accounting(uid: int, newer_than: float, submitted_at: float) -> Listing:
    def question(known: Listing) -> Listing:
        # Far enough back to list this user's other old jobs, too.
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
    """Return the listing of a command, running it only if no process has done so recently.

    Args:
        command: Name under which the listing is kept on disk.
        uid: User id of the owner of the jobs.
        newer_than: How old the listing may be, in seconds since the epoch.
        since: When the oldest job of interest was submitted, in seconds since the epoch.
        question: Runs the command; its argument is the last listing.
        must_wait: Whether an older listing must not be used while another process asks SLURM.
    """
    import filelock

    cache = _cache(command, uid)
    known = _read(cache)
    if known.serves(newer_than, since):
        return known
    # While another process asks, a listing that is twice as old as wanted is good enough.
    is_recent = not must_wait and known.as_of > newer_than - (time.time() - newer_than)
    with contextlib.ExitStack() as stack:
        try:
            lock = filelock.FileLock(cache.with_suffix(".lock"))
            stack.enter_context(lock.acquire(timeout=0 if is_recent else LOCK_SECONDS))
        except filelock.Timeout:
            if is_recent:
                return known
        except OSError:
            pass  # the home directory is full or cannot lock files, so every process asks
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
    """Return the file in which all processes of this user and machine share a listing.

    Its name has the machine's, since several clusters may share one home directory.
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
    # If the clock was set back, a listing would otherwise be used for too long.
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
        with contextlib.suppress(ValueError):  # sites print lines of their own
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
        "--format=JobID,State,End,Reason,ExitCode",
    )
    rows: dict[str, Row] = {}
    for line in said.splitlines():
        with contextlib.suppress(ValueError):
            name, word, end, *rest = line.strip().split("|", 4)
            reason, exit_code = (*rest, "", "")[:2]
            job_id, _, step = name.partition(".")
            if not step:
                # Beware: a job that has ended keeps its last reason to wait.
                why = reason if plain_word(word) == "PENDING" else ""
                if (word, reason) == ("CANCELLED", "Dependency"):  # a person's has "by UID"
                    why = NEVER_SATISFIED
                rows[job_id] = Row(word, why, end=_seconds(end), exit_code=exit_code)
            elif (job := rows.get(job_id)) and plain_word(job.word) == "FAILED":
                state = plain_word(word)
                is_final = job.is_final and state != "RUNNING"
                failure = word if state == "OUT_OF_MEMORY" else job.word
                rows[job_id] = replace(job, word=failure, is_final=is_final)
    return rows


def _seconds(stamp: str) -> float:
    return float(stamp) if stamp.isdecimal() else 0
