"""Processes that the workers of a run started and left behind.

Every worker has the run's directory and the token of its attempt in environment variables, which
all that it starts inherits, so such a process can be found wherever it has moved in the process
tree. The token is random: a shell in which somebody has exported the directory does not have it.
A command next to a worker has the token alone, as it must not write into the directory.
"""

import contextlib
import os
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

RUN_VARIABLE = "GETIACTION_RUN_DIR"
"""Environment variable of a worker, and of all that it starts: the run's directory here."""
TOKEN_VARIABLE = "GETIACTION_LAUNCH_TOKEN"  # noqa: S105 - a name, and nothing secret
"""Environment variable of a worker, and of all that it starts: the token of the attempt."""
_MOST_LOOKS = 20
"""How often processes are looked for, as long as new ones are found."""
_EMPTY_LOOKS = 3
"""How often a program must be seen without variables to be one that has none."""
_EXECUTES_SECONDS = 1.0
"""How long a process may take to execute a program, on a machine with much to do."""


def kill_processes_of(
    directory: str,
    tokens: Collection[str],
    known: Collection["psutil.Process"] = (),
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
    import psutil  # slow to import

    wanted = {RUN_VARIABLE: directory, **variables}

    def is_started(process: psutil.Process) -> bool:
        if process.pid == os.getpid() or process.uids().real != os.getuid():
            return False
        environment = _environment(process)
        token = environment.get(TOKEN_VARIABLE)
        if token and token in tokens:
            environment.setdefault(RUN_VARIABLE, directory)
        elif process not in known:
            return False
        return wanted.items() <= environment.items()

    killed: set[psutil.Process] = set()
    for _ in range(_MOST_LOOKS):
        before = len(killed)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process not in killed and is_started(process):
                    process.kill()
                    killed.add(process)
        if len(killed) == before:  # otherwise, one may have started another during the look
            return


def _environment(process: "psutil.Process") -> dict[str, str]:
    """Return the variables of a process, which has none to be seen while it executes a program."""
    deadline, empty = time.monotonic() + _EXECUTES_SECONDS, 0
    # Threads of the kernel have no program.
    while not (found := process.environ()) and process.exe() and time.monotonic() < deadline:
        empty += bool(process.cmdline())  # or it has begun in between
        if empty == _EMPTY_LOOKS:
            break
        time.sleep(0.001)
    return found


def processes_of(directory: str) -> "list[psutil.Process]":
    """Return the processes of this machine that the workers of a run have started, and these.

    Args:
        directory: Directory of the run on this machine, as :data:`RUN_VARIABLE` names it.
    """
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_alive = process.status() != psutil.STATUS_ZOMBIE
            if is_alive and _environment(process).get(RUN_VARIABLE) == directory:
                found.append(process)
    return found
