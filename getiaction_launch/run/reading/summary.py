"""A look at a run on remote storage in one request: its records, repeated in ``progress.json``.

Each request to object storage is paid for and waited for, and what `ls` and `status` show is spread
over a dozen records. So on remote storage ``progress.json`` has them, too: the process that begins
and ends an attempt adds them, and so does, in between, the mirror of rank 0's node, which replaces
this file every two seconds anyway.

If a run has many attempts, it has the first one and the newest ones: who needs all of them reads
the others, so that what each look reads does not grow with their number.

Beware: a summary may lack what was written since. It is believed only where it says that the run
has ended, or where the run's job says that it lives (:mod:`getiaction_launch.launch.status`). A
resume removes it before it lets another attempt follow. Runs of earlier versions, and runs that
wait for their first nodes, have none: there, one listing says which records exist.
"""

import contextlib
import itertools
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.plan.plan import Plan, SweepPoint, Topology
from getiaction_launch.run.beats.records import NodeBeats
from getiaction_launch.run.checkpoint import last_kept
from getiaction_launch.run.network.records import NetworkRecord
from getiaction_launch.run.records import SUMMARY, Done, JobRecord, Progress
from getiaction_launch.run.run import Run
from getiaction_launch.storage.at_once import for_each
from getiaction_launch.storage.entries import read_entries
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.paths import is_remote, modified_at

NEWEST_ATTEMPTS = 4
"""How many of the newest attempts a summary has at most, besides the first one."""
_ATTEMPT = "attempt_"
_ATTEMPT_NAME = re.compile(rf"{_ATTEMPT}(0|[1-9]\d{{0,5}})")
_PLAN = "plan"


@dataclass(frozen=True)
class LastCheckpoint:
    """The checkpoint that a run would resume from.

    Attributes:
        name: Name of its file in ``launch/checkpoints/``.
        step: Steps up to it.
        saved_at: When it was saved, in seconds since the epoch.
    """

    name: str
    step: int
    saved_at: float

    def __post_init__(self) -> None:
        if why_refused(self.name) or "/" in self.name:
            raise ValueError(f"{self.name!r} is not the name of a checkpoint")


@dataclass(frozen=True)
class Summary:
    """What the records of a run say.

    Attributes:
        directory: URL of the run; in a copy elsewhere, the summary does not count.
        submitted_at: When the run was submitted, in seconds since the epoch.
        records: The contents of ``job.json``, ``done.json`` and ``attempt_N.json`` of the first
            attempt and the newest ones, by their names; those that do not exist are missing.
        topology: The nodes and workers of the plan; None if it cannot be read.
        sweep: The run's point of a sweep; None for a run on its own.
        checkpoint: The newest committed checkpoint that rank 0's node has uploaded; None if there
            is none, or once the attempt has ended.
        network: The network that joins the nodes; None as long as they have not chosen one, or
            once the attempt has ended.
        beats: What the ranks do on the nodes of rank 0's machine; empty once the attempt has ended.
        last_checkpoint: Path of the last checkpoint, relative to the run's directory, of a run that
            has finished and reported none; empty if there is none, None for any other run.
    """

    directory: str
    submitted_at: float
    records: dict[str, dict[str, object]]
    topology: Topology | None = None
    sweep: SweepPoint | None = None
    checkpoint: LastCheckpoint | None = None
    network: NetworkRecord | None = None
    beats: list[NodeBeats] = field(default_factory=list)
    last_checkpoint: str | None = None

    def __post_init__(self) -> None:
        if self.last_checkpoint and why_refused(self.last_checkpoint):
            raise ValueError(f"{self.last_checkpoint!r} is not the path of a checkpoint")

    @property
    def attempt_numbers(self) -> list[int]:
        """Which attempts the records have, the first one first."""
        return sorted(int(m[1]) for name in self.records if (m := _ATTEMPT_NAME.fullmatch(name)))

    @property
    def attempts(self) -> int:
        """How many attempts have begun."""
        return max(self.attempt_numbers, default=-1) + 1

    @classmethod
    def of(cls, run: Run, content: dict[str, object] | None) -> "Summary | None":
        """Read the summary in the content of ``progress.json``; None if it has none that counts."""
        with contextlib.suppress(ValueError, RecordError):  # damaged: the records say it all
            if content and (said := content.get(SUMMARY)):
                found = read_dataclass(cls, said, "progress.json: summary")
                return found if found.directory == str(run.directory) else None
        return None

    def write(self, run: Run, progress: Progress) -> None:
        """Replace ``progress.json`` on remote storage.

        Raises:
            StorageError: If storage refuses the write.
        """
        run.write(Progress.NAME, {**progress.content(), SUMMARY: asdict(self)})


def read_summary(run: Run) -> Summary | None:
    """Read the summary of a run on remote storage; None if it has none that counts.

    Raises:
        StorageError: If remote storage does not answer.
    """
    with contextlib.suppress(RecordError):  # damaged: the records say it all
        return Summary.of(run, run.read(Progress.NAME))
    return None


def write_summary(run: Run, attempt: int) -> None:
    """Write what the records of a run on remote storage say; after an attempt began or ended.

    Args:
        run: The run, in a directory or at a URL.
        attempt: Number of that attempt.

    Raises:
        StorageError: If remote storage does not answer.
    """
    if is_remote(run.directory):
        # A damaged record, and a run that is being removed, must not keep the attempt from ending.
        with contextlib.suppress(RecordError, FileNotFoundError):
            _summarize(run, attempt).write(run, Progress.read(run) or Progress())


def _summarize(run: Run, attempt: int) -> Summary:
    newest = range(max(1, attempt + 1 - NEWEST_ATTEMPTS), attempt + 1)
    names = [JobRecord.NAME, Done.NAME, *(f"{_ATTEMPT}{number}" for number in (0, *newest))]
    contents = zip(names, for_each(run.read, names, run.directory), strict=True)
    records = {name: content for name, content in contents if content}
    for number in itertools.count(attempt + 1):  # another job may have begun the next one
        if not (content := run.read(f"{_ATTEMPT}{number}")):
            break
        records[f"{_ATTEMPT}{number}"] = content
    topology = sweep = None
    with contextlib.suppress(ValueError, RecordError):  # of another program
        plan = Plan.of(run)
        topology, sweep = plan.topology, plan.sweep
    submitted_at = modified_at(run.launch_directory / "plan.json")
    summary = Summary(str(run.directory), submitted_at, records, topology, sweep)
    done = records.get(Done.NAME)
    with contextlib.suppress(OSError):  # who wants to know looks for it again
        if done and not done.get("checkpoints"):
            last = str(last_kept(run) or "").removeprefix(f"{run.directory}/")
            return replace(summary, last_checkpoint=last)
    return summary


def forget_summary(run: Run) -> None:
    """Let the records of a run on remote storage count alone, before they are changed.

    Raises:
        StorageError: If remote storage does not answer.
    """
    if is_remote(run.directory):
        drop_summary(run)


def drop_summary(run: Run) -> None:
    """Remove what ``progress.json`` repeats of the other records, among them that of the job.

    Raises:
        OSError: If the file cannot be read or written.
        StorageError: If remote storage does not answer.
    """
    with contextlib.suppress(RecordError):  # a damaged one has no summary that counts
        content = run.read(Progress.NAME)
        if content and content.pop(SUMMARY, None):
            if content.keys() <= {"schema_version"}:  # nothing was reported
                run.forget(Progress.NAME)
            else:
                run.write(Progress.NAME, content)


@dataclass(frozen=True)
class Look(Run):
    """A run on remote storage as it was seen at one moment: nothing is read twice.

    Attributes:
        summary: What its records said; None if it has no summary.
        listed: For a run without a summary, which records existed: the version of each, by its
            name.
        known: Contents of records, by their names.
        listed_at: When the plan was written, in seconds since the epoch, by that listing.
    """

    summary: Summary | None = field(default=None, compare=False)
    listed: dict[str, object] = field(default_factory=dict, compare=False)
    known: dict[str, dict[str, object] | None] = field(default_factory=dict, compare=False)
    listed_at: float | None = field(default=None, compare=False)

    @property
    def submitted_at(self) -> float | None:
        """When the run was submitted, in seconds since the epoch; None if it was not."""
        return self.summary.submitted_at if self.summary else self.listed_at

    def attempt_numbers(self) -> Iterable[int]:
        """Return the numbers of the attempts that the summary has; of all if there is none."""
        return self.summary.attempt_numbers if self.summary else super().attempt_numbers()

    def read(self, record: str) -> dict[str, object] | None:
        """Read a record, unless this look has seen it, or has seen that it did not exist."""
        if record not in self.known:
            self.known[record] = None if self._is_absent(record) else super().read(record)
        return self.known[record]

    def _is_absent(self, record: str) -> bool:
        is_attempt = _ATTEMPT_NAME.fullmatch(record)
        if self.summary:
            # Beware: a job may begin its attempt before job.json is written. Only job.json itself
            # says that the run has no job.
            is_later = is_attempt and int(is_attempt[1]) >= self.summary.attempts
            return bool(is_later) or record == Done.NAME
        # Beware: a run that ends after the listing writes done.json before the attempt's end.
        may_have_ended = record == Done.NAME and f"{_ATTEMPT}0" in self.listed
        is_known = bool(is_attempt) or record in (JobRecord.NAME, Done.NAME, Progress.NAME, _PLAN)
        return is_known and not may_have_ended and record not in self.listed


def look_at(run: Run, before: Run | None = None) -> Run:
    """Look at a run: in one request if it has a summary, or in two and one for each record.

    Args:
        run: The run to look at.
        before: What the look before this one has returned, of which unchanged records are taken.

    Returns:
        The run, whose records are those of this moment; in a directory, the run itself.

    Raises:
        StorageError: If storage does not answer.
    """
    if not is_remote(run.directory):
        return run
    if isinstance(before, Look) and before.summary is None:
        return _listed(run, before)
    known = _read_progress(run)
    return _summarized(run, known) or replace(_listed(run, None), known=known)


def _read_progress(run: Run) -> dict[str, dict[str, object] | None]:
    with contextlib.suppress(RecordError):  # damaged: who reads it again says so
        return {Progress.NAME: run.read(Progress.NAME)}
    return {}


def _summarized(run: Run, known: dict[str, dict[str, object] | None]) -> Look | None:
    summary = Summary.of(run, known.get(Progress.NAME))
    return Look(run.directory, summary, {}, {**summary.records, **known}) if summary else None


def _listed(run: Run, before: Look | None) -> Look:
    """List the records of a run, and keep those that have not changed since the look before."""
    entries = [e for e in read_entries(run.launch_directory) if e.name.endswith(".json")]
    times = {entry.name: entry.written_at for entry in entries}
    listed = {entry.name.removesuffix(".json"): entry.version for entry in entries}
    kept: dict[str, dict[str, object] | None] = {}
    if before:
        same = {n for n, tag in before.listed.items() if tag and tag == listed.get(n)}
        kept = {name: content for name, content in before.known.items() if name in same}
        if Progress.NAME in listed.keys() - same:
            kept |= _read_progress(run)
            if look := _summarized(run, kept):
                return look
    at = None
    if _PLAN in listed:
        with contextlib.suppress(FileNotFoundError):  # removed since
            at = times["plan.json"] or modified_at(run.launch_directory / "plan.json")
    return Look(run.directory, None, listed, kept, at)
