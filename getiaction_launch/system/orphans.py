"""Processes that the workers of a run started and left behind.

Every worker has the run's directory in an environment variable, which all that it starts inherits,
so such a process can be found wherever it has moved in the process tree.
"""

import contextlib
import os

import psutil

RUN_VARIABLE = "GETIACTION_RUN_DIR"
"""Environment variable of a worker, and of all that it starts: the run's directory here."""


def kill_processes_of(directory: str, **variables: str) -> None:
    """Kill every process of this machine that belongs to a run, except this one.

    Args:
        directory: Directory of the run on this machine, as :data:`RUN_VARIABLE` names it.
        variables: Environment variables that a process must have, too, in order to be killed.
    """
    wanted = {RUN_VARIABLE: directory, **variables}.items()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and wanted <= process.environ().items():
                process.kill()
