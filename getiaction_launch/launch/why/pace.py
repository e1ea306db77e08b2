"""How a run that is training does: at its usual pace, slower, or at a standstill."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from getiaction_launch.launch.why.signs import Category
from getiaction_launch.plan.durations import age
from getiaction_launch.plan.text import shorten
from getiaction_launch.run.beats import NodeBeats, Phase, RankBeat, Stall
from getiaction_launch.run.beats.oddness import find_odd, states_of
from getiaction_launch.run.beats.stragglers import Straggler, find_straggler
from getiaction_launch.run.records import Progress

SLOW = 1.5
"""How many times its usual time a step may take before it counts as slow."""
SLOWEST_SECONDS = 60
"""How long no step is nothing to mention, however fast the others were."""
PACES = 20
"""How many usual steps without one count as late."""
SILENT_SECONDS = 60
"""How old the beats of a node may be before that node counts as silent."""


@dataclass(frozen=True)
class Pace:
    """What the ranks of a run do at present.

    Attributes:
        category: STALL if training stands still, SLOW if one rank slows the others; else None.
        words: What can be said of it, in sentences.
        step: The last step that has ended.
        rank: The rank that the others wait for; None if there is none.
        node: Rank of that rank's node.
        host: Host name of that node.
        sources: The records that say so, with the lines that matter.
    """

    category: Category | None = None
    words: str = ""
    step: int | None = None
    rank: int | None = None
    node: int | None = None
    host: str | None = None
    sources: tuple[tuple[str, str], ...] = ()


def read_pace(progress: Progress, beats: list[NodeBeats]) -> Pace:
    """Say how training does, by what the nodes and the worker of rank 0 have last written.

    Args:
        progress: What the worker of rank 0 has last reported.
        beats: What the nodes have last written; empty in runs of earlier versions.
    """
    now = time.time()
    for node in beats:
        if node.stall:
            return _stalled(node, node.stall, beats)
    ranks = [(beat, node) for node in beats for beat in node.ranks]
    silent = [node for node in beats if now - node.written_at > SILENT_SECONDS]
    if silent:
        first = min(silent, key=lambda node: node.written_at)
        words = (
            f"node {first.node_rank} ({first.host}) has written nothing for "
            f"{age(now - first.written_at)}: it hangs, is lost, or cannot write to the run"
        )
        return Pace(
            words=words,
            step=progress.step,
            node=first.node_rank,
            host=first.host,
            sources=(_source(first, f"written_at: {first.written_at}"),),
        )
    stepped = [(beat, node) for beat, node in ranks if beat.step_at is not None]
    if stepped:
        return _by_beats(stepped, ranks, now)
    if ranks:
        beat, node = min(ranks, key=lambda each: each[0].phase_since or now)
        since = age(now - (beat.phase_since or now))
        words = (
            f"no step of this attempt has ended yet; rank {beat.rank} on node {node.node_rank} "
            f"({node.host}) has been {_doing(beat.phase)} for {since}"
        )
        return Pace(words=words, step=progress.step, sources=(_source(node, _line(beat)),))
    return _by_progress(progress, now)


def _stalled(node: NodeBeats, stall: Stall, beats: list[NodeBeats]) -> Pace:
    odd = stall.odd_ranks[0] if stall.odd_ranks else None
    place = next((n for n in beats for beat in n.ranks if beat.rank == odd), None)
    since = age(time.time() - stall.noticed_at)
    words = f"stalled after step {stall.step}, noticed {since} ago: {shorten(stall.reason)}"
    return Pace(
        Category.STALL,
        words,
        stall.step,
        odd,
        place.node_rank if place else None,
        place.host if place else None,
        tuple(stall_sources(node, stall)),
    )


def stall_sources(node: NodeBeats, stall: Stall) -> Iterator[tuple[str, str]]:
    """Yield the files that say what a node found in a stall, with the line that matters."""
    yield _source(node, f"stall: {shorten(stall.reason)}")
    if stall.stacks:
        logs = f"launch/logs/attempt_{node.attempt}/{stall.stacks}"
        yield logs, "the stacks of the ranks at that moment"


def _by_beats(
    stepped: list[tuple[RankBeat, NodeBeats]], ranks: list[tuple[RankBeat, NodeBeats]], now: float
) -> Pace:
    last, node = max(stepped, key=lambda each: each[0].step_at or 0)
    step = max(beat.step for beat, _ in stepped)
    waited = now - (last.step_at or now)
    usual = last.seconds_per_step
    ago = f"last step {age(waited)} ago"
    pace = f", {usual:.3g} s per step" if usual else ""
    busy = f"{_doing(last.phase)}" if last.phase in ("validating", "saving") else ""
    are_late = all(beat.silent_seconds > (beat.limit_seconds or now) for beat, _ in ranks)
    if are_late or (not busy and usual and waited > max(SLOWEST_SECONDS, PACES * usual)):
        often = f", although one usually takes {usual:.3g} s" if usual else ""
        return _without_step(f"no step for {age(waited)}{often}", step, ranks, are_late, now)
    if busy:
        return Pace(words=f"{busy} since step {step}, {ago}{pace}", step=step)
    if usual and waited > max(SLOW * usual, usual + 1):
        return Pace(
            words=f"slower than usual since step {step}: {ago}, although one usually takes "
            f"{usual:.3g} s",
            step=step,
            sources=(_source(node, _line(last)),),
        )
    words = f"training at its usual pace, {ago}{pace}" if usual else f"training, {ago}"
    if slow := find_straggler(_nodes(ranks)):
        return _slowed(slow, words, step, ranks)
    return Pace(words=words, step=step, sources=(_source(node, _line(last)),))


def _without_step(
    words: str,
    step: int,
    ranks: list[tuple[RankBeat, NodeBeats]],
    are_late: bool,
    now: float,
) -> Pace:
    """Name the rank that holds up the others, and say what their nodes have learned to expect."""
    odd = find_odd(states_of(_nodes(ranks), [])).ranks[:1]
    beat, node = next((each for each in ranks if [each[0].rank] == odd), ranks[0])
    limits = [each.limit_seconds for each, _ in ranks]
    place = f"rank {beat.rank} on node {node.node_rank} ({node.host})"
    words += f"; {place} has been {_doing(beat.phase)} for {age(now - beat.phase_since)}"
    if not are_late and None not in limits:
        words += f"; that counts as a stall after {age(max(limit or 0 for limit in limits))}"
    found = Pace(Category.STALL if are_late else None, words, step)
    if odd:
        found = replace(found, rank=beat.rank, node=node.node_rank, host=node.host)
    return replace(found, sources=(_source(node, _line(beat)),))


def _nodes(ranks: list[tuple[RankBeat, NodeBeats]]) -> list[NodeBeats]:
    return list({node.node_rank: node for _, node in ranks}.values())


def _slowed(
    slow: Straggler, words: str, step: int, ranks: list[tuple[RankBeat, NodeBeats]]
) -> Pace:
    beat, node = next(each for each in ranks if each[0].rank == slow.rank)
    words += (
        f"; rank {slow.rank} on node {slow.node_rank} ({slow.host}) slows all ranks: it needs "
        f"{slow.seconds:.3g} s of its own for a step, {slow.ratio:.1f} times as long as the "
        f"others, mostly {_doing(slow.phase)}, and the others wait"
    )
    place = (slow.rank, slow.node_rank, slow.host)
    spent = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in beat.recent_seconds.items())
    line = f"rank {slow.rank}, per step: {spent}"
    return Pace(Category.SLOW, words, step, *place, sources=(_source(node, line),))


def _by_progress(progress: Progress, now: float) -> Pace:
    """Say what is known of a run whose nodes write no beats."""
    if progress.step is None or progress.updated_at is None:
        words = "its workers have started and have not reported a step yet"
        return Pace(words=words)
    waited, usual = now - progress.updated_at, progress.seconds_per_step
    pace = f", {usual:.3g} s per step on average" if usual else ""
    doing = "saving a checkpoint" if progress.phase == "saving" else "training"
    source = (
        ("launch/progress.json", f"step: {progress.step}, updated_at: {progress.updated_at}"),
    )
    if waited > max(SLOWEST_SECONDS, PACES * (usual or 0)):
        words = f"nothing was reported for {age(waited)}, since step {progress.step}{pace}"
        return Pace(words=words, step=progress.step, sources=source)
    words = f"{doing}, step {progress.step} reported {age(waited)} ago{pace}"
    return Pace(words=words, step=progress.step, sources=source)


def _doing(phase: Phase) -> str:
    words: dict[Phase, str] = {
        "starting": "starting",
        "fetching": "fetching a batch",
        "forward": "in the forward pass",
        "backward": "in the backward pass",
        "optimizing": "in the optimizer or in hooks between two steps",
        "validating": "validating",
        "saving": "saving a checkpoint",
        "waiting": "waiting for the other ranks",
        "finished": "finished",
    }
    return words[phase]


def _line(beat: RankBeat) -> str:
    return f"rank {beat.rank}: step {beat.step}, {beat.phase}, usual {beat.seconds_per_step} s"


def _source(node: NodeBeats, line: str) -> tuple[str, str]:
    return f"launch/beats/attempt_{node.attempt}_node_{node.node_rank}.json", line
