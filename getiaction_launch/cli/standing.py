"""How far a run is: nodes, attempt, elapsed and remaining time, and its newest checkpoint."""

import contextlib
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from getiaction_launch.cli import ranks
from getiaction_launch.cli.show import job_id, phase, short, table
from getiaction_launch.errors import counted
from getiaction_launch.launch import pulse
from getiaction_launch.launch.attempts import read_all_attempts
from getiaction_launch.launch.listing.entry import elapsed_seconds
from getiaction_launch.launch.resuming import sites
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.code import Code
from getiaction_launch.plan.durations import age, duration
from getiaction_launch.plan.plan import Plan, Topology
from getiaction_launch.run.checkpoint import Checkpoint, newest
from getiaction_launch.run.network.records import NetworkRecord
from getiaction_launch.run.reading.summary import LastCheckpoint
from getiaction_launch.run.records import AttemptRecord, JobRecord, read_attempts
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.paths import is_remote


@dataclass(frozen=True)
class Standing:
    """What a run's own records say about where it stands.

    Attributes:
        topology: The nodes and workers of the run; None if its plan cannot be read.
        code: The version of the run's code; None if its plan has none, or cannot be read.
        attempts: Every attempt so far, the first one first.
        elapsed_seconds: Time since the first attempt began, until now or the run's end; None
            before that.
        remaining_seconds: Time that the remaining steps will take, at the mean speed of this
            attempt; None if that is not known.
        checkpoint: The checkpoint that the run would resume from.
        checkpoint_step: Steps up to that checkpoint.
        checkpoint_saved_at: When it was saved, in seconds since the epoch.
        network: The network that joins the nodes of the newest attempt; None if they have not
            looked for one.
    """

    topology: Topology | None = None
    code: Code | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    elapsed_seconds: float | None = None
    remaining_seconds: float | None = None
    checkpoint: Path | None = None
    checkpoint_step: int | None = None
    checkpoint_saved_at: float | None = None
    network: NetworkRecord | None = None


def read_standing(status: RunStatus) -> Standing:
    """Read where a run stands; what cannot be read is left out.

    Args:
        status: The status of the run, as it was just read.
    """
    run, topology, code, summary = status.run, None, None, status.summary
    with contextlib.suppress(OSError, ValueError):  # one damaged record must not hide the others
        plan = Plan.of(run)
        topology, code = plan.topology, plan.code
    attempts = status.records
    with contextlib.suppress(OSError, ValueError):
        attempts = tuple(read_all_attempts(status) or read_attempts(run))
    found = Standing(
        topology,
        code,
        attempts,
        elapsed_seconds(attempts),
        _remaining_seconds(status),
    )
    last: Checkpoint | LastCheckpoint | None = None
    if summary and status.state is JobState.RUNNING:
        last = summary.checkpoint
        place = run.launch_directory / "checkpoints" / last.name if last else None
        found = replace(found, checkpoint=place, network=summary.network)
    else:
        with contextlib.suppress(OSError, ValueError):
            if committed := newest(run):
                last, found = committed, replace(found, checkpoint=committed.path)
        with contextlib.suppress(OSError, ValueError):
            if attempts:
                found = replace(found, network=NetworkRecord.read(run, attempts[-1].number))
    saved = (last.step, last.saved_at) if last else (None, None)
    return replace(found, checkpoint_step=saved[0], checkpoint_saved_at=saved[1])


def _remaining_seconds(status: RunStatus) -> float | None:
    progress = status.progress
    if (
        status.state is not JobState.RUNNING
        or progress.step is None
        or not progress.total_steps
        or not progress.seconds_per_step
        or pulse.stall_of(status)
    ):
        return None
    return max(0, progress.total_steps - progress.step) * progress.seconds_per_step


def _job_id(status: RunStatus) -> str:
    known = status.summary.records.get(JobRecord.NAME, {}) if status.summary else {}
    return str(known.get("job_id") or job_id(status.run))


def standing(status: RunStatus) -> str:
    """Show the state of a run that has not ended.

    Args:
        status: The status of the run, as it was just read.
    """
    run, found = status.run, read_standing(status)
    words = phase(status)
    state = words if words.startswith(status.state.value) else f"{status.state.value}  {words}"
    rows = [("run", run.name), ("job", _job_id(status)), ("directory", short(run.directory))]
    rows += [("state", state)]
    if topology := found.topology:
        where = f"  {counted(topology.gpus_per_node, 'GPU')}" if topology.gpus_per_node else "  CPU"
        workers = counted(topology.workers_per_node, "worker")
        rows += [("nodes", f"{topology.num_nodes} x {workers}{where}")]
    if hosts := ranks.hosts(status):
        rows += [("hosts", hosts)]
    if found.code and found.code.title:
        rows += [("code", found.code.title)]
    if found.attempts:
        before = f"  (the one before: {found.attempts[-2].reason})" if found.attempts[1:] else ""
        rows += [("attempt", f"{found.attempts[-1].number}{before}")]
    if found.network and found.network.head:
        names = ", ".join(dict.fromkeys(node.interface for node in found.network.nodes))
        rows += [("network", f"{names}  rank 0 at {found.network.head}")]
    rows += sites.rows(found.attempts)
    if found.elapsed_seconds is not None:
        rows += [("elapsed", duration(found.elapsed_seconds))]
    if found.remaining_seconds is not None:
        rows += [("eta", duration(found.remaining_seconds))]
    if last := pulse.last_step(status):
        rows += [("last step", last)]
    if found.checkpoint:
        saved = f", {age(time.time() - (found.checkpoint_saved_at or 0))} ago"
        rows += [("checkpoint", f"step {found.checkpoint_step}{saved}  {short(found.checkpoint)}")]
    return table([*rows, *ranks.memory_rows(status)])


def as_json(status: RunStatus) -> dict[str, object]:
    """Return the same for machines.

    Args:
        status: The status of the run, as it was just read.
    """
    found = read_standing(status)
    topology, path = found.topology, found.checkpoint
    return {
        "nodes": topology and topology.num_nodes,
        "workers_per_node": topology and topology.workers_per_node,
        "gpus_per_node": topology and topology.gpus_per_node,
        "attempt": found.attempts[-1].number if found.attempts else None,
        "elapsed_seconds": found.elapsed_seconds,
        "eta_seconds": found.remaining_seconds,
        "checkpoint": path and str(path if is_remote(path) else path.absolute()),
        "checkpoint_step": found.checkpoint_step,
        "checkpoint_saved_at": found.checkpoint_saved_at,
        "code": found.code and found.code.summary(),
        "places": sites.as_json(found.attempts),
        "network": asdict(found.network) if found.network else None,
        "ranks": ranks.as_json(status),
    }
