"""Runs a command next to the training of a run, on the node of one of its workers."""

from collections.abc import Sequence

from getiaction_launch.errors import CheckError, disk_errors
from getiaction_launch.launch.logs.lines import check_rank
from getiaction_launch.launch.running.stacks import running_attempt
from getiaction_launch.launch.status import attach
from getiaction_launch.launch.trust import check_owner
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.beats.records import NodeBeats
from getiaction_launch.run.run import Run


@disk_errors()
def execute(run: Run, words: Sequence[str], *, rank: int = 0, trust: bool = False) -> int:
    """Run a command in the directory and with the variables of a worker, on its node.

    It ends with the attempt. On this machine and on SLURM, this process becomes the one that
    connects the command to the terminal, and the call does not return
    (:func:`getiaction_launch.system.child.become`).

    Args:
        run: The run, which must be running.
        words: The command and its arguments.
        rank: The worker's rank among all workers.
        trust: Whether to do so for another user's run, whose records are then obeyed; without it,
            that is refused.

    Returns:
        The exit code of the command.

    Raises:
        UsageError: If the run has no such worker.
        CheckError: If the run is not running, or its backend cannot run anything next to it.
        UnreachableError: If the node cannot be reached from here.
    """
    from getiaction_launch.node.beside import beside_arguments  # slow to import

    if not trust:
        check_owner(run, "exec")
    topology = Plan.of(run).topology
    check_rank(run, rank, topology.world_size)
    number = running_attempt(run, "has no node to run a command on")
    job = attach(run)
    if job is None:
        raise CheckError(f"run {run.name} was not submitted yet.")
    node_rank = rank // topology.workers_per_node
    beats = NodeBeats.read(run, number, node_rank)
    arguments = beside_arguments(str(run.directory), number, rank, words)
    return job.execute(node_rank, beats.host if beats else "", arguments)
