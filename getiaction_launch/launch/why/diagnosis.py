"""Why a run stands where it does: what ``getiaction-launch why`` says, as data."""

import contextlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from getiaction_launch.errors import counted
from getiaction_launch.launch.why import words
from getiaction_launch.launch.why.advice import Situation, Step, steps_after
from getiaction_launch.launch.why.failure import (
    Evidence,
    Failure,
    find_failure,
    log_tail,
    relative,
)
from getiaction_launch.launch.why.pace import Pace, read_pace, stall_sources
from getiaction_launch.launch.why.reading import Records
from getiaction_launch.launch.why.signs import Category
from getiaction_launch.plan.text import shorten
from getiaction_launch.run.beats import NodeBeats
from getiaction_launch.run.network.records import NetworkRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

MOST_REPEATS = 50
"""How many earlier attempts are compared with the last one."""


@dataclass(frozen=True)
class Diagnosis:
    """Why a run stands where it does.

    Attributes:
        run: The run that was looked at.
        state: Where the run stands.
        cause: What ended the run or its last attempt, in the words of its record.
        category: Whose fault that is; None if nothing is wrong.
        rank: The rank that failed first, or that the others wait for.
        node: Rank of the node that it ran on.
        host: Host name of that node.
        first_error: What it failed with: ``ValueError: message``.
        where: Where the error left the user's own code: ``train.py:8 in load``.
        repeats: How many attempts in a row, the last one included, ended in this way.
        last_step: Steps that training had reached.
        checkpoint: Path or URL of the newest committed checkpoint.
        checkpoint_step: Steps up to that checkpoint.
        lost_steps: Steps that a resumed run would train again.
        scheduler: What the scheduler has said, in its own words; empty if it was not asked.
        damaged: What could not be read, a sentence each.
        summary: All of this for people, in one paragraph.
        evidence: The lines of files that say so.
        next: What to do now.
        shown_state: Where the run stands, in a word.
    """

    run: Run
    state: JobState
    cause: str | None = None
    category: Category | None = None
    rank: int | None = None
    node: int | None = None
    host: str | None = None
    first_error: str | None = None
    where: str | None = None
    repeats: int = 0
    last_step: int | None = None
    checkpoint: str | None = None
    checkpoint_step: int | None = None
    lost_steps: int | None = None
    scheduler: str = ""
    damaged: list[str] = field(default_factory=list)
    summary: str = ""
    evidence: list[Evidence] = field(default_factory=list)
    next: list[Step] = field(default_factory=list)
    shown_state: str = ""

    def to_json(self) -> dict[str, object]:
        """Return all of it for machines; the run by its name and its directory."""
        shown = {each.name: getattr(self, each.name) for each in fields(self)}
        del shown["shown_state"]
        return {
            **shown,
            "run": self.run.name,
            "directory": str(self.run.directory),
            "state": self.shown_state,
            "category": self.category.value if self.category else None,
            "scheduler": self.scheduler or None,
            "evidence": [asdict(each) for each in self.evidence],
            "next": [asdict(step) for step in self.next],
        }


def diagnose(run: Run, place: str | None = None) -> Diagnosis:
    """Find out why a run stands where it does. Nothing that it reads can make it fail.

    Args:
        run: The run to look at.
        place: The run as one types it, ready to paste; its directory by default.
    """
    place = place or shlex.quote(str(run.directory))
    records = Records.read(run)
    status = records.status
    found = Diagnosis(
        run,
        status.state,
        status.cause.value if status.cause else None,
        last_step=_last_step(records),
        checkpoint=str(records.checkpoint.path) if records.checkpoint else None,
        checkpoint_step=records.checkpoint.step if records.checkpoint else None,
        scheduler=records.job_status.said if records.job_status else "",
        shown_state=status.shown_state,
    )
    if status.unlaunched:
        see = Step("see its metrics and checkpoints", f"getiaction-launch status {place}")
        return replace(found, summary=words.unlaunched(status.unlaunched), next=[see])
    found = replace(found, lost_steps=_lost_steps(found, records))
    failure, repeats = _last_failure(run, records)
    situation = _situation(run, records, place)
    if status.state is JobState.SUCCEEDED:
        found = replace(
            found, summary=words.success(records), last_step=status.progress.step, lost_steps=None
        )
    elif status.state is JobState.UNKNOWN:
        found = _unknown(found, records, place)
    elif status.state.is_over:
        found = _ended(found, records, failure, repeats, situation)
    elif status.state is JobState.RUNNING and records.attempts and not _is_between(records):
        found = _running(found, records, failure, place)
    else:
        found = _waiting(found, records, failure, repeats, place)
    if records.job_status and records.job_status.said:
        said = Evidence("the scheduler", [records.job_status.said])
        found = replace(found, evidence=[*found.evidence, said])
    return replace(found, damaged=records.damaged)


def _last_step(records: Records) -> int | None:
    steps = [records.status.progress.step, *(a.last_step for a in records.attempts[-1:])]
    steps += [beat.step for node in records.beats for beat in node.ranks if beat.step_at]
    return max((step for step in steps if step is not None), default=None)


def _lost_steps(found: Diagnosis, records: Records) -> int | None:
    if found.last_step is None or records.keeps_own:
        return None
    # A checkpoint that is newer belongs to another fit of the program.
    lost = found.last_step - (found.checkpoint_step or 0)
    return lost if lost >= 0 else None


def _is_between(records: Records) -> bool:
    return records.attempts[-1].ended_at is not None


def _situation(run: Run, records: Records, place: str) -> Situation:
    arguments = records.job.backend.init_args if records.job else {}
    memory = arguments.get("memory_mb")
    return Situation(
        place,
        str(run.directory),
        f"{records.resume or 'getiaction-launch resume'} {place}",
        records.plan,
        memory if isinstance(memory, int) and not isinstance(memory, bool) and memory > 0 else None,
        limits_memory="slurm" in (records.job.backend.class_path.lower() if records.job else "")
        and records.resume is None,
        has_checkpoint=records.checkpoint is not None,
        keeps_own=records.keeps_own,
    )


def _last_failure(run: Run, records: Records) -> tuple[Failure | None, int]:
    """Return how the last attempt ended, and how many in a row did so."""
    attempts = records.attempts
    if not attempts or records.status.state is JobState.SUCCEEDED:
        return None, 0
    latest = attempts[-1]
    if latest.ended_at is None and records.status.state.is_over:
        latest = replace(latest, reason=records.status.reason, cause=records.status.cause)
        latest = replace(latest, state=records.status.state, ended_at=0.0)
    elif latest.ended_at is None:
        attempts = attempts[:-1]  # it runs: what ended the one before is of interest
        if not attempts:
            return None, 0
        latest = attempts[-1]
    with records.noting():
        failure = find_failure(run, latest, records.plan, records.damaged)
        if failure is None:
            return None, 0
        failure = _with_network(_with_beats(failure, records.beats), run, latest.number)
        repeats = 1
        for earlier in reversed(attempts[:-1][-MOST_REPEATS:]):
            before = find_failure(run, earlier, records.plan, records.damaged)
            if before is None or not failure.is_like(before):
                break
            repeats += 1
        return failure, repeats
    return None, 0


def _with_beats(failure: Failure, beats: Sequence[NodeBeats]) -> Failure:
    """Add what the nodes of the last attempt have recorded: a host, the stacks of a stall."""
    if failure.category is Category.STALL:
        found = [
            Evidence(source, [line])
            for node in beats
            if node.stall
            for source, line in stall_sources(node, node.stall)
        ]
        failure = replace(failure, evidence=[*failure.evidence, *found])
    if failure.host or failure.node is None:
        return failure
    host = next((node.host for node in beats if node.node_rank == failure.node and node.host), None)
    return replace(failure, host=host)


def _with_network(failure: Failure, run: Run, attempt: int) -> Failure:
    """Add by which network the nodes were joined, if that may be at fault."""
    record = None
    if failure.category is Category.NETWORK:
        with contextlib.suppress(OSError, ValueError):
            record = NetworkRecord.read(run, attempt)
    if record is None or not record.said:
        return failure
    source = relative(run, run.log_directory(attempt) / "network.json")
    said = Evidence(source, [shorten(record.said)])
    return replace(failure, evidence=[*failure.evidence, said])


def _blamed(found: Diagnosis, failure: Failure, repeats: int) -> Diagnosis:
    return replace(
        found,
        category=failure.category,
        rank=failure.rank,
        node=failure.node,
        host=failure.host,
        first_error=failure.error or None,
        where=failure.where,
        repeats=repeats,
        evidence=failure.evidence,
    )


def _ended(
    found: Diagnosis,
    records: Records,
    failure: Failure | None,
    repeats: int,
    situation: Situation,
) -> Diagnosis:
    if failure is None:
        failure = _without_attempt(records)
    found = _blamed(found, failure, repeats)
    lost = words.lost(found, keeps_own=records.keeps_own)
    summary = " ".join([words.end(records, failure), words.repeated(records, repeats), lost])
    return replace(found, summary=" ".join(summary.split()), next=steps_after(failure, situation))


def _without_attempt(records: Records) -> Failure:
    """Return why a run ended of which no attempt has begun, or none could be read."""
    status, run = records.status, records.status.run
    is_cancelled = status.state is JobState.CANCELLED
    category = Category.CANCELLED if is_cancelled else Category.SCHEDULER
    evidence = []
    with contextlib.suppress(OSError, ValueError):
        log = run.log_directory(0) / "job.log"
        if lines := log_tail(log):
            evidence.append(Evidence(relative(run, log), lines))
    return Failure(category, error=status.reason, evidence=evidence)


def _running(found: Diagnosis, records: Records, failure: Failure | None, place: str) -> Diagnosis:
    pace = read_pace(records.status.progress, records.beats)
    evidence = [Evidence(source, [line]) for source, line in pace.sources]
    steps = [Step("see what it logs", f"getiaction-launch logs -f {place}")]
    stacks = Step("see where each rank is", f"getiaction-launch stacks {place}")
    if pace.category is Category.SLOW:
        look = Step(
            "see where that rank is", f"getiaction-launch stacks --rank {pace.rank} {place}"
        )
        steps = [look, Step("compare all ranks", f"getiaction-launch report {place}")]
    elif pace.category or pace.rank is not None:
        steps = [
            stacks,
            Step("see what the ranks log", f"getiaction-launch logs -n 20 {place}"),
            Step("end it if it does not recover", f"getiaction-launch cancel {place}"),
            Step("then resume", f"getiaction-launch resume {place}"),
        ]
    elif records.beats and not any(beat.step_at for node in records.beats for beat in node.ranks):
        steps.append(stacks)  # nobody judges how long a program may take to begin
    return replace(
        _paced(found, pace, records),
        category=pace.category,
        summary=words.running(records, pace, failure),
        evidence=evidence,
        next=steps,
    )


def _paced(found: Diagnosis, pace: Pace, records: Records) -> Diagnosis:
    step = found.last_step if pace.step is None else pace.step
    found = replace(found, last_step=step, rank=pace.rank, node=pace.node, host=pace.host)
    return replace(found, lost_steps=_lost_steps(found, records))


def _waiting(
    found: Diagnosis, records: Records, failure: Failure | None, repeats: int, place: str
) -> Diagnosis:
    if failure:
        found = _blamed(found, failure, repeats)
    said = words.waiting(records)
    earlier = words.before(records, failure, repeats) if failure else ""
    steps = [_release(records) or Step(_NOTHING, f"getiaction-launch status {place}")]
    return replace(found, summary=f"{said} {earlier}".strip(), next=steps)


_NOTHING = "it starts as soon as it can; to look again"


def _release(records: Records) -> Step | None:
    """Return the command that a scheduler's reason gives, where a job cannot start without it."""
    reason = records.job_status.reason if records.job_status else ""
    hint = re.search(r"; (to (?:let it start|start it anyway)): ([^;]+)", reason)
    return Step(hint[1], hint[2].strip()) if hint else None


def _unknown(found: Diagnosis, records: Records, place: str) -> Diagnosis:
    reason = records.status.reason.rstrip(".")
    summary = f"Nothing certain can be said: {reason}." if reason else "Nothing can be said."
    if records.attempts:
        summary += f" {counted(len(records.attempts), 'attempt')} can be read."
    steps = [
        Step("look once more", f"getiaction-launch status {place}"),
        Step("if its machine or cluster is gone", f"getiaction-launch resume --force {place}"),
    ]
    return replace(found, category=Category.UNKNOWN, summary=summary, next=steps)
