"""The run and the attempt of this worker, which its node passes in environment variables."""

import os
from pathlib import Path

from getiaction_launch.run.run import Run
from getiaction_launch.system.orphans import RUN_VARIABLE


def own_run() -> Run:
    """Return the run that this worker belongs to.

    Raises:
        KeyError: If no node has started this process.
    """
    return Run(Path(os.environ[RUN_VARIABLE]))


def own_attempt() -> int:
    """Return the number of the attempt of the run that this worker belongs to, from 0."""
    return int(os.environ.get("GETIACTION_LAUNCH_ATTEMPT", "0"))
