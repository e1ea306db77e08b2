"""Starts workers quickly: each is a fork of one process that has imported torch and Lightning.

A worker that is forked does all that a started one does, and dies of the same signals; only the
four seconds of its imports are saved, which a test of fifty attempts would spend fifty times.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import getiaction.train  # noqa: F401 - the import takes long
from getiaction_launch.worker import interruption, progress, worker
from getiaction_launch.worker.loggers import histories  # noqa: F401 - as above


def strike(batch: int, name: str) -> None:
    """Send this process a signal at the end of a batch, counted over all of its fits.

    Args:
        batch: Number of the batch, from 1; 0 for none.
        name: Name of the signal.
    """
    original = progress.ProgressReport.on_train_batch_end
    seen = 0

    def count(*args: Any, **kwargs: Any) -> None:
        nonlocal seen
        original(*args, **kwargs)
        seen += 1
        if seen == batch:
            os.kill(os.getpid(), signal.Signals[name])

    progress.ProgressReport.on_train_batch_end = count


def work(order: dict[str, Any]) -> None:
    """Be one worker; never returns."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.setsid()
    os.environ.update(order["env"])
    os.chdir(order["directory"])
    sys.argv = ["worker", order["run"]]
    interruption.AGREEMENT_SECONDS = 0  # before every batch
    strike(order["batch"], order["signal"])
    try:
        worker.main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    os._exit(0)


def main() -> None:
    """Fork a worker for each line of JSON on stdin; print how each one ended."""
    for line in sys.stdin:
        assert threading.active_count() == 1  # a fork has only the thread that forked
        if (child := os.fork()) == 0:
            work(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent / "programs"))
    main()
