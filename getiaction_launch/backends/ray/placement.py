"""Nodes for an attempt: wait for a placement group, and record what it waits for.

https://docs.ray.io/en/latest/ray-core/scheduling/placement-group.html
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from getiaction_launch.errors import counted
from getiaction_launch.run.records import Record
from getiaction_launch.run.run import Run

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

POLL_SECONDS = 0.5
RECORD_SECONDS = 5


@dataclass(frozen=True)
class Placement(Record):
    """``placement.json``: what a run waits for. Written by the driver while it waits.

    Attributes:
        reason: What the run asks for, and what the cluster has.
    """

    NAME: ClassVar[str] = "placement"

    reason: str


def place(
    run: Run,
    bundle: Mapping[str, float],
    num_nodes: int,
    limit_seconds: float | None,
    *,
    may_share: bool,
    is_stopped: Callable[[], bool],
) -> "PlacementGroup | None":
    """Wait until Ray has reserved all nodes; ``placement.json`` says what is missing.

    Args:
        run: The run that needs the nodes.
        bundle: The resources of each node, by Ray's names.
        num_nodes: How many nodes the run needs.
        limit_seconds: How long to wait at most; None for no limit.
        may_share: Whether several nodes of the run may be placed on one node of the cluster.
        is_stopped: Returns whether to stop waiting.

    Returns:
        The placement group; None if the run was stopped first.

    Raises:
        TimeoutError: If the cluster has no room in time; the message says what is missing.
    """
    from ray.util import placement_group, remove_placement_group

    strategy = "PACK" if may_share else "STRICT_SPREAD"
    group: PlacementGroup = placement_group([dict(bundle)] * num_nodes, strategy=strategy)
    started_at = time.monotonic()
    recorded_at = -math.inf
    try:
        while not group.wait(POLL_SECONDS):
            waited_seconds = time.monotonic() - started_at
            if is_stopped():
                break
            is_late = limit_seconds is not None and waited_seconds > limit_seconds
            if not is_late and waited_seconds - recorded_at < RECORD_SECONDS:
                continue
            # Ray is asked now and then only, as its answers are costly on a large cluster.
            recorded_at = waited_seconds
            reason = missing(bundle, num_nodes, may_share=may_share)
            if is_late:
                words = f"no nodes within placement_limit_seconds={limit_seconds:g}: it {reason}"
                raise TimeoutError(words)  # noqa: TRY301 - the code below releases the group
            Placement(reason).write(run, durable=False)
        else:
            return group
    except BaseException:
        remove_placement_group(group)
        raise
    finally:
        Placement.remove(run)
    remove_placement_group(group)
    return None


def missing(bundle: Mapping[str, float], num_nodes: int, *, may_share: bool) -> str:
    """Describe what a run waits for: ``asks for 2 nodes with 4 CPU each; free: ...``.

    Args:
        bundle: The resources of each node, by Ray's names.
        num_nodes: How many nodes the run needs.
        may_share: Whether several nodes of the run may be placed on one node of the cluster.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fitting = sum(all(node.get(k, 0) >= v for k, v in bundle.items()) for node in nodes)
    free, total = (
        _text({name: all_nodes.get(name, 0) for name in bundle})
        for all_nodes in (ray.available_resources(), ray.cluster_resources())
    )
    wanted = f"{counted(num_nodes, 'node')} with {_text(bundle)}{' each' if num_nodes > 1 else ''}"
    reason = f"asks for {wanted}; free: {free} of {total}"
    if fitting < num_nodes and not may_share:
        reason += f"; only {fitting} of its {counted(len(nodes), 'node')} are large enough"
    return reason


def _text(resources: Mapping[str, float]) -> str:
    gib = 1 << 30
    words = (
        f"{amount / gib:g} GiB memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in resources.items()
    )
    return ", ".join(words)
