"""A command next to a worker: in its directory and with its variables, on its node.

``getiaction-launch exec`` has the backend start ``python -m getiaction_launch.node.beside`` there,
which finds the worker in the process table and becomes the command. Nothing of the run is read.
"""

import contextlib
import os
import re
import socket
import sys
from collections.abc import Sequence

import psutil

from getiaction_launch.node.progress_file import VARIABLE as PROGRESS_VARIABLE
from getiaction_launch.run.beats.memory import BEAT_VARIABLE
from getiaction_launch.system.child import become
from getiaction_launch.system.orphans import RUN_VARIABLE

NOT_FOUND = 127
CANNOT_RUN = 126
"""Exit codes of a shell for a command that does not exist, or cannot be run."""
EXIT_NO_WORKER = 3
RUN = "GETIACTION_LAUNCH_RUN"
ATTEMPT = "GETIACTION_LAUNCH_ATTEMPT"
"""Environment variables of a worker: its run's directory or URL, and the number of its attempt."""
_WORKER = "getiaction_launch.worker.worker"
# By these, a Trainer or torch.distributed would join the training, and what trains or reports would
# write into its run; the others are the worker's own.
_OF_TRAINING = re.compile(
    r"MASTER_(ADDR|PORT)|TORCHELASTIC_.*|PL_TRAINER_.*|GETIACTION_LAUNCH_PARENT"
    rf"|{BEAT_VARIABLE}|{RUN_VARIABLE}|{PROGRESS_VARIABLE}"
)
_TERMINAL = ("TERM", "COLORTERM", "COLUMNS", "LINES")


def beside_arguments(directory: str, attempt: int, rank: int, words: Sequence[str]) -> list[str]:
    """Return the arguments of Python by which it runs a command next to a worker.

    Args:
        directory: Directory or URL of the run.
        attempt: Number of the attempt, from 0.
        rank: The worker's rank among all workers.
        words: The command and its arguments.
    """
    return ["-m", "getiaction_launch.node.beside", directory, str(attempt), str(rank), *words]


def _find_worker(directory: str, attempt: str, rank: str) -> psutil.Process | None:
    wanted = {ATTEMPT: attempt, "RANK": rank}.items()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.uids().real != os.getuid() or _WORKER not in process.cmdline():
                continue
            variables = process.environ()
            if wanted <= variables.items() and _is_same(variables.get(RUN, ""), directory, process):
                return process
    return None


def _is_same(one: str, other: str, worker: psutil.Process) -> bool:
    """Whether two names are those of one run: one may lead there by a link, or from elsewhere."""
    if "://" in one or "://" in other:
        return one == other
    with contextlib.suppress(OSError):
        return os.path.samefile(os.path.join(worker.cwd(), one), other)  # noqa: PTH118, PTH121
    return False


def main() -> int:
    """Become the command: ``python -m getiaction_launch.node.beside RUN ATTEMPT RANK COMMAND``."""
    directory, attempt, rank, *words = sys.argv[1:]
    host = socket.gethostname()
    worker = _find_worker(directory, attempt, rank)
    if worker is None:
        sys.stderr.write(f"error: rank {rank} has no process on node {host} at present.\n")
        return EXIT_NO_WORKER
    variables = {k: v for k, v in worker.environ().items() if not _OF_TRAINING.fullmatch(k)}
    variables |= {name: os.environ[name] for name in _TERMINAL if name in os.environ}
    directory = worker.cwd()
    try:
        os.chdir(directory)
    except OSError as error:  # somebody has removed it
        sys.stderr.write(f"error: {directory} on node {host}: {error.strerror}.\n")
        return CANNOT_RUN
    try:
        become(words, variables)
    except FileNotFoundError:
        sys.stderr.write(f"error: {words[0]!r} is not a command of node {host}.\n")
        return NOT_FOUND
    except OSError as error:
        sys.stderr.write(f"error: {words[0]!r} cannot be run on node {host}: {error.strerror}.\n")
        return CANNOT_RUN


if __name__ == "__main__":
    sys.exit(main())
