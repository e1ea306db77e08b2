"""When each attempt waited, started, trained and stood still, and why it ended."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from getiaction_launch.report.contents.scalars import Curve
from getiaction_launch.run.beats.records import NodeBeats
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.state import JobState

QUEUED, STARTING, RUNNING, STALLED, STOPPED = "queued", "starting", "running", "stalled", "stopped"
SAVED = "saved"


@dataclass(frozen=True)
class Span:
    """A stretch of time in which a run did one thing.

    Attributes:
        phase: ``queued``, ``starting``, ``running``, ``stalled`` or ``stopped``.
        start: When it began, in seconds since the epoch.
        end: When it ended, in seconds since the epoch.
        attempt: Number of the attempt, from 0; of the next one, while none was running.
    """

    phase: str
    start: float
    end: float
    attempt: int


@dataclass(frozen=True)
class Event:
    """A moment of a run: a checkpoint was saved.

    Attributes:
        at: When it was, in seconds since the epoch.
        step: The step that was saved; None if that is not known.
        what: What was saved, in a few words.
    """

    at: float
    step: int | None
    what: str


@dataclass(frozen=True)
class AttemptRow:
    """One attempt in words.

    Attributes:
        number: The attempt's number, from 0.
        state: How it ended, or RUNNING.
        cause: What ended it; empty after success and while it runs.
        reason: Why it ended, in a sentence; empty after success.
        started_at: When it began, in seconds since the epoch.
        ended_at: When it ended; None while it runs.
        first_step: Steps of earlier attempts.
        last_step: Steps that it has reached; None if that is not known.
        head: Address of the node of rank 0.
        stall: What was found when training stood still; empty if it did not.
    """

    number: int
    state: str
    cause: str
    reason: str
    started_at: float
    ended_at: float | None
    first_step: int
    last_step: int | None
    head: str
    stall: str = ""


@dataclass(frozen=True)
class Timeline:
    """What happened to a run, in order.

    Attributes:
        spans: What it did from its submission to its end, or until now.
        events: Checkpoints that are still there, by when they were saved.
        attempts: A row for each attempt.
    """

    spans: list[Span] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Time from the first attempt to the end of the last one, or until now."""
        spans = [span for span in self.spans if span.phase not in (QUEUED, STOPPED)]
        return spans[-1].end - spans[0].start if spans else None

    @property
    def training_seconds(self) -> float:
        """Time in which an attempt has trained, as far as that is known."""
        return sum(span.end - span.start for span in self.spans if span.phase == RUNNING)


def read_timeline(
    attempts: Sequence[AttemptRecord],
    *,
    submitted_at: float | None,
    state: JobState,
    beats: Mapping[int, Sequence[NodeBeats]],
    curves: Mapping[str, Curve],
    events: Sequence[Event],
    resubmitted_at: float | None = None,
    last_seen: float | None = None,
) -> Timeline:
    """Put together what a run's records say about time.

    Args:
        attempts: All attempts, the first one first.
        submitted_at: When the run was first submitted; None if that is not known.
        state: Where the run stands.
        beats: What the nodes have reported, by attempt.
        curves: The curves by the names of their metrics, whose times say when training began.
        events: The checkpoints that were saved.
        resubmitted_at: When the run's present job was submitted; None if that is not known.
        last_seen: When a run whose end is not recorded gave its last sign; None if that is not
            known.
    """
    now = time.time()
    is_alive = state in (JobState.PENDING, JobState.RUNNING)
    until = now if is_alive else last_seen or max((a.started_at for a in attempts), default=now)
    spans: list[Span] = []
    free_at, is_waiting = submitted_at, True
    for attempt in attempts:
        if free_at:
            spans += _between(free_at, attempt, resubmitted_at, is_waiting=is_waiting)
        end = attempt.ended_at
        if end is None:  # a later attempt can only begin when this one is over
            later = [other.started_at for other in attempts if other.number > attempt.number]
            end = min([until, *later])
        end = max(end, attempt.started_at)
        spans += _spans(attempt, end, beats.get(attempt.number, ()), curves)
        # `resume` also marks what it continues; only a restart without it has waited in a queue.
        free_at, is_waiting = end, attempt.goes_on and attempt.state is not JobState.CANCELLED
    if state is JobState.PENDING and free_at and now > free_at:
        spans.append(Span(QUEUED, free_at, now, len(attempts)))
    rows = [_row(attempt, beats.get(attempt.number, ())) for attempt in attempts]
    return Timeline(spans, sorted(events, key=lambda event: event.at), rows)


def _between(
    free_at: float, attempt: AttemptRecord, resubmitted_at: float | None, *, is_waiting: bool
) -> list[Span]:
    """Return what a run did before an attempt: first nothing, if it had to be submitted again."""
    end, number = attempt.started_at, attempt.number
    queued_at = free_at if is_waiting else end
    if resubmitted_at and free_at < resubmitted_at < end and number:
        queued_at = resubmitted_at
    spans = [Span(STOPPED, free_at, queued_at, number), Span(QUEUED, queued_at, end, number)]
    return [span for span in spans if span.end > span.start]


def _spans(
    attempt: AttemptRecord, end: float, beats: Sequence[NodeBeats], curves: Mapping[str, Curve]
) -> list[Span]:
    start, number = attempt.started_at, attempt.number
    trained_at = min(_training_start(attempt, end, beats, curves), end)
    stalls = [node.stall for node in beats if node.stall]
    stalled_at = min((s.noticed_at - s.limit_seconds for s in stalls), default=end)
    stalled_at = min(max(stalled_at, trained_at), end)
    spans = [
        Span(STARTING, start, trained_at, number),
        Span(RUNNING, trained_at, stalled_at, number),
        Span(STALLED, stalled_at, end, number),
    ]
    return [span for span in spans if span.end > span.start]


def _training_start(
    attempt: AttemptRecord, end: float, beats: Sequence[NodeBeats], curves: Mapping[str, Curve]
) -> float:
    """Return when the first step began, as far as that is known; otherwise the first value."""
    starting = [rank.phase_seconds.get("starting") for node in beats for rank in node.ranks]
    known = [seconds for seconds in starting if seconds is not None]
    if known:
        return attempt.started_at + max(0.0, *known)
    first = [
        next((at for at in curve.times if attempt.started_at <= at <= end), None)
        for curve in curves.values()
    ]
    return min((at for at in first if at is not None), default=end)


def _row(attempt: AttemptRecord, beats: Sequence[NodeBeats]) -> AttemptRow:
    stalls = [node.stall.reason for node in beats if node.stall]
    return AttemptRow(
        attempt.number,
        attempt.state.value,
        attempt.cause.value if attempt.cause else "",
        attempt.reason,
        attempt.started_at,
        attempt.ended_at,
        attempt.first_step,
        attempt.last_step,
        attempt.head,
        next(filter(None, stalls), ""),
    )
