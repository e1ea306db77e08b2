"""The log of a job, in which SLURM's words stand between those of its node of rank 0."""

import contextlib
import re
from pathlib import Path

TAIL_BYTES = 1 << 20
# srun writes it as soon as it knows; the job's state and the accounting follow when the step ends.
_OUT_OF_MEMORY = re.compile(r"^srun: error: .*: Out Of Memory$", re.MULTILINE)


def first_words(key: str) -> str:
    """Return what a start of a job writes first, since the log is that of all its starts.

    Args:
        key: The key of that start; see :class:`getiaction_launch.node.allocation.Allocation`.
    """
    return f"start {key} of this job"


def says_out_of_memory(log: Path, key: str) -> bool:
    """Whether srun has written that a task of a start of the job was killed because memory ran out.

    Args:
        log: File to which SLURM writes the output of the batch script.
        key: The key of that start.
    """
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        _, marker, said = file.read().decode(errors="replace").rpartition(first_words(key))
        return bool(marker) and _OUT_OF_MEMORY.search(said) is not None
    return False
