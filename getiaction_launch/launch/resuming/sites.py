"""Where each attempt of a run ran, if they did not all run in the same place."""

from collections.abc import Sequence

from getiaction_launch.errors import counted
from getiaction_launch.launch.resuming.change import label
from getiaction_launch.plan.site import Site
from getiaction_launch.run.records import AttemptRecord


def rows(attempts: Sequence[AttemptRecord]) -> list[tuple[str, str]]:
    """Return the lines that say where the attempts ran; none if all ran alike.

    Args:
        attempts: Every attempt of a run, the first one first.
    """
    words = [words_of(attempt.site) for attempt in attempts]
    if len(set(words)) < 2:  # noqa: PLR2004 - two different ones
        return []
    places = zip(attempts, words, strict=True)
    lines = [f"attempt {attempt.number} ran on {place}" for attempt, place in places if place]
    return list(zip(["places", *[""] * len(lines)], lines, strict=False))


def words_of(site: Site | None) -> str:
    """Say where an attempt ran: ``slurm with 2 x 1 worker``; empty if that is not known."""
    if site is None:
        return ""
    workers = f"{site.num_nodes} x {counted(site.workers_per_node, 'worker')}"
    gpus = f", {counted(site.gpus_per_node, 'GPU')} each" if site.gpus_per_node else ""
    return f"{label(site.backend) or 'an unknown cluster'} with {workers}{gpus}"


def as_json(attempts: Sequence[AttemptRecord]) -> list[dict[str, object]]:
    """Return the same for machines, one entry for each attempt.

    Args:
        attempts: Every attempt of a run, the first one first.
    """
    return [
        {
            "attempt": attempt.number,
            "backend": attempt.site and label(attempt.site.backend),
            "job_id": attempt.site and attempt.site.job_id,
            "nodes": attempt.site and attempt.site.num_nodes,
            "workers_per_node": attempt.site and attempt.site.workers_per_node,
            "gpus_per_node": attempt.site and attempt.site.gpus_per_node,
            "state": attempt.state.value,
        }
        for attempt in attempts
    ]
