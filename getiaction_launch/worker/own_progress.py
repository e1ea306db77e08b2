"""Progress of a program without a Lightning Trainer, which reports it itself.

It imports no torch, so a program may call it wherever it trains.
"""

import os
import sys
import time
from pathlib import Path
from typing import SupportsFloat

from getiaction_launch.run.own_progress import OwnProgress
from getiaction_launch.system.orphans import RUN_VARIABLE
from getiaction_launch.worker.assignment import own_run

PERIOD_SECONDS = 1.0
"""Shortest time between two reports; the last step is always reported."""


_reports: dict[Path, OwnProgress] = {}
_next_at: dict[Path, float] = {}


def progress(step: int, total: int | None = None, **metrics: SupportsFloat) -> None:
    """Report how far training is, for ``status``, ``ls`` and ``--wait``.

    For programs without a Lightning Trainer, whose progress is known anyway. Call it after each
    step, on every rank; rank 0 writes at most once a second, and reads the metrics only then.
    Outside of a launch it does nothing.

    Args:
        step: Steps so far, over all attempts of the run.
        total: Steps of the whole training; None if that is not known.
        metrics: The last value of each metric: numbers, or tensors with one element.

    Raises:
        TypeError: If a metric is not a number.
    """
    if RUN_VARIABLE not in os.environ or os.environ.get("RANK", "0") != "0":
        return
    run = own_run()
    trainer = sys.modules.get("getiaction_launch.worker.progress")
    if trainer and run.directory in trainer.reports:
        return  # a Lightning Trainer knows more
    report = _reports.setdefault(run.directory, OwnProgress(run, step, time.monotonic()))
    if step == total or time.monotonic() >= _next_at.get(run.directory, 0.0):
        _next_at[run.directory] = time.monotonic() + PERIOD_SECONDS
        report.write(step, total, {name: float(value) for name, value in metrics.items()})
