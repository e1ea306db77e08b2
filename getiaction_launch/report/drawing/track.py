"""A run's life as one bar: its phases in order, with long stops shortened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from getiaction_launch.report.contents.timeline import (
    QUEUED,
    SAVED,
    STOPPED,
    AttemptRow,
    Span,
    Timeline,
)
from getiaction_launch.report.drawing.chart import WIDTH, Tick
from getiaction_launch.report.words import count, duration, moment

_IDLE = (QUEUED, STOPPED)
_LARGEST_SHARE = 0.12
"""Share of the working time that a queue or a stop takes in the drawing at most."""
_NARROWEST = 2.0
_MOST_EVENTS = 100


@dataclass(frozen=True)
class Piece:
    """A stretch of the bar.

    Attributes:
        phase: What the run did; also the name of its colour.
        x: Where it begins, in units of the drawing.
        width: How wide it is, in units of the drawing.
        label: What it was, in a sentence.
        is_cut: Whether it is drawn shorter than it was.
    """

    phase: str
    x: float
    width: float
    label: str
    is_cut: bool


@dataclass(frozen=True)
class Track:
    """The bar with its marks.

    Attributes:
        pieces: The phases, in order.
        events: Where checkpoints were saved.
        attempts: Where each attempt begins.
        totals: Time spent in each phase, in words.
    """

    pieces: list[Piece]
    events: list[Tick]
    attempts: list[Tick]
    totals: list[tuple[str, str]]


def lay_out(timeline: Timeline) -> Track | None:
    """Place the phases of a run on a bar; None if it has done nothing yet.

    Args:
        timeline: What happened to the run.
    """
    spans = timeline.spans
    busy = sum(span.end - span.start for span in spans if span.phase not in _IDLE)
    total = sum(span.end - span.start for span in spans)
    if total <= 0:
        return None
    longest = busy * _LARGEST_SHARE if busy > 0 else total
    drawn = [_drawn_seconds(span, longest) for span in spans]
    floor = _NARROWEST / WIDTH * sum(drawn)
    drawn = [max(seconds, floor) for seconds in drawn]
    scale = WIDTH / sum(drawn)
    pieces: list[Piece] = []
    x = 0.0
    for span, seconds in zip(spans, drawn, strict=True):
        width = seconds * scale
        is_cut = seconds < (span.end - span.start) * 0.99
        pieces.append(Piece(span.phase, round(x, 1), round(width, 1), _label(span), is_cut))
        x += width
    return Track(
        pieces,
        _events(timeline, pieces),
        _attempts(timeline.attempts, spans, pieces),
        _totals(spans),
    )


def _drawn_seconds(span: Span, longest: float) -> float:
    seconds = span.end - span.start
    return min(seconds, longest) if span.phase in _IDLE else seconds


def _label(span: Span) -> str:
    words = duration(span.end - span.start)
    if span.phase == STOPPED:
        return f"Stopped before attempt {span.attempt}: {words}, from {moment(span.start)}"
    if span.phase == QUEUED:
        return f"Queued before attempt {span.attempt}: {words}, from {moment(span.start)}"
    return f"Attempt {span.attempt} {span.phase}: {words}, from {moment(span.start)}"


def _events(timeline: Timeline, pieces: Sequence[Piece]) -> list[Tick]:
    ticks = []
    for event in timeline.events[-_MOST_EVENTS:]:
        for span, piece in zip(timeline.spans, pieces, strict=True):
            if span.start <= event.at <= span.end:
                share = (event.at - span.start) / (span.end - span.start)
                at = piece.x + share * piece.width
                step = "" if event.step is None else f" of step {count(event.step)}"
                label = f"Checkpoint{step} saved at {moment(event.at)}: {event.what}"
                ticks.append(Tick(round(at, 1), label, f"{at / WIDTH * 100:.2f}%"))
                break
    return ticks


def _attempts(
    rows: Sequence[AttemptRow], spans: Sequence[Span], pieces: Sequence[Piece]
) -> list[Tick]:
    ticks: list[Tick] = []
    for row in rows:
        starts = (
            piece.x
            for span, piece in zip(spans, pieces, strict=True)
            if span.attempt == row.number and span.phase not in _IDLE
        )
        at = next(starts, None)
        if at is not None:
            ticks.append(Tick(at, str(row.number), f"{at / WIDTH * 100:.2f}%"))
    return ticks


def _totals(spans: Sequence[Span]) -> list[tuple[str, str]]:
    seconds: dict[str, float] = {}
    for span in spans:
        seconds[span.phase] = seconds.get(span.phase, 0) + span.end - span.start
    return [(phase, duration(total)) for phase, total in seconds.items()]


def legend(tracks: Mapping[str, Track]) -> list[str]:
    """Return the phases that some bars have, in the order of a run, and ``saved`` if one has marks.

    Args:
        tracks: The bars by the names of their runs.
    """
    order = (QUEUED, "starting", "running", "stalled", STOPPED)
    there = {piece.phase for track in tracks.values() for piece in track.pieces}
    saved = [SAVED] if any(track.events for track in tracks.values()) else []
    return [phase for phase in order if phase in there] + saved
