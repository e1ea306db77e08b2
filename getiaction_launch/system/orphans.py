"""Processes that the workers of a run started and left behind.

Every worker has the run's directory and the token of its attempt in environment variables, which
all that it starts inherits, so such a process can be found wherever it has moved in the process
tree. The token is random: a shell in which somebody has exported the directory does not have it.
A command next to a worker has the token alone, as it must not write into the directory.
"""

import contextlib
import os
from collections.abc import Collection

import psutil

RUN_VARIABLE = "GETIACTION_RUN_DIR"
"""Environment variable of a worker, and of all that it starts: the run's directory here."""
TOKEN_VARIABLE = "GETIACTION_LAUNCH_TOKEN"  # noqa: S105 - a name, and nothing secret
"""Environment variable of a worker, and of all that it starts: the token of the attempt."""


def kill_processes_of(
    directory: str,
    tokens: Collection[str],
    known: Collection[psutil.Process] = (),
    **variables: str,
) -> None:
    """Kill the processes on this machine that an attempt has started, except this one.

    Args:
        directory: Directory of the run on this machine, as :data:`RUN_VARIABLE` names it.
        tokens: Tokens of the attempts, as :data:`TOKEN_VARIABLE` names one of them.
        known: Processes that were seen to descend from the run's job; they need no token, which
            the attempts of earlier versions do not have.
        variables: Environment variables that a process must have, too, in order to be killed.
    """
    wanted = {RUN_VARIABLE: directory, **variables}.items()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.uids().real != os.getuid():
                continue
            environment = process.environ()
            token = environment.get(TOKEN_VARIABLE)
            if token and token in tokens:
                environment.setdefault(RUN_VARIABLE, directory)
            elif process not in known:
                continue
            if wanted <= environment.items():
                process.kill()


def processes_of(directory: str) -> list[psutil.Process]:
    """Return the processes of this machine that the workers of a run have started, and these.

    Args:
        directory: Directory of the run on this machine, as :data:`RUN_VARIABLE` names it.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            if is_alive and process.environ().get(RUN_VARIABLE) == directory:
                found.append(process)
    return found
