"""A step of a running job, next to the training: on one node, with what the job has there.

https://slurm.schedmd.com/srun.html
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from getiaction_launch.backends.slurm.command import absence, call, clean_environment
from getiaction_launch.errors import UnreachableError
from getiaction_launch.system.child import become


def find_node(target: str, node_rank: int) -> tuple[str, str]:
    """Return the plain number of a running job, and SLURM's name of one of its nodes.

    Args:
        target: The job, ``123`` or ``123_4``, or the step that trains, ``123.0``.
        node_rank: Rank of the node in the job or the step, from 0.

    Raises:
        UnreachableError: If SLURM does not answer, or the job has no such node at present.
        RefusedError: If SLURM does not know the job.
    """
    job_id = target.partition(".")[0]
    # srun knows elements of arrays only by their plain numbers.
    said = call("squeue", f"--jobs={job_id}", "--noheader", "--format=%A|%N").strip()
    number, _, nodes = said.partition("|")
    if target != job_id:  # a step may have fewer nodes than the job
        nodes = call("squeue", f"--steps={target}", "--noheader", "--format=%N").strip()
    names = call("scontrol", "show", "hostnames", nodes).split() if nodes else []
    if not number.isdecimal() or node_rank >= len(names):
        raise UnreachableError(
            f"job {target} has no node {node_rank} at present.", f"squeue --jobs={job_id}"
        )
    return number, names[node_rank]


def execute_beside(
    job_id: str, node: str, setup: Sequence[str], python: str, arguments: Sequence[str]
) -> NoReturn:
    """Become a step of a job on one of its nodes, which shares all that the job has there.

    Args:
        job_id: Plain number of the job.
        node: SLURM's name of the node.
        setup: Shell lines to run first; what they print goes to standard error.
        python: How to start Python, as a shell reads it.
        arguments: What Python gets as its arguments.

    Raises:
        UnreachableError: If there is no srun here.
    """
    before = "".join(f"{line}\n" for line in setup)
    script = f'{{\n:\n{before}}} >&2 </dev/null\nexec {python} "$@"'
    words = ["srun", "--overlap", f"--jobid={job_id}", f"--nodelist={node}", "--nodes=1"]
    words += ["--ntasks=1", "--chdir=/", "--mpi=none", "--disable-status"]
    if sys.stdin.isatty() and sys.stdout.isatty():
        words.append("--pty")
    try:
        become([*words, "bash", "-c", script, "bash", *arguments], clean_environment())
    except OSError as error:
        raise absence("srun", error) from error
