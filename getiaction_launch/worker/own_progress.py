"""Progress of a program without a Lightning Trainer, which reports it itself.

It imports no torch, so a program may call it wherever it trains.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import SupportsFloat

from getiaction_launch.run.metric import warnings
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run
from getiaction_launch.system.orphans import RUN_VARIABLE
from getiaction_launch.worker.assignment import own_run

PERIOD_SECONDS = 1.0
"""Shortest time between two reports; the last step is always reported."""


@dataclass
class _Report:
    """What this process has reported.

    Attributes:
        run: The run that this process trains.
        first_step: The first step that was reported.
        started_at: When that was, by the monotonic clock.
        next_at: When to report again, by the same clock.
        not_finite: Since which step metrics have not been finite.
    """

    run: Run
    first_step: int
    started_at: float
    next_at: float = 0.0
    not_finite: dict[str, int] = field(default_factory=dict)

    def write(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        done = step - self.first_step
        now = time.monotonic()
        self.next_at = now + PERIOD_SECONDS
        names = [name for name, value in metrics.items() if not math.isfinite(value)]
        self.not_finite = {name: self.not_finite.get(name, step) for name in names}
        report = Progress().updated(
            phase="finished" if step == total else "training",
            step=step,
            first_step=self.first_step,
            total_steps=total,
            seconds_per_step=(now - self.started_at) / done if done > 0 else None,
            metrics=dict(metrics),
            not_finite=self.not_finite,
            is_own=True,
            updated_at=time.time(),
        )
        # Training must not end because a disk is full.
        with contextlib.suppress(OSError):
            report.write(self.run, durable=False)
        if step == total:
            for warning in warnings(report):
                sys.stderr.write(f"getiaction-launch: {warning}\n")


_reports: dict[Path, _Report] = {}


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
    report = _reports.setdefault(run.directory, _Report(run, step, time.monotonic()))
    if step == total or time.monotonic() >= report.next_at:
        report.write(step, total, {name: float(value) for name, value in metrics.items()})
