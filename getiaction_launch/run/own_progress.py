"""Progress that a program without a Lightning Trainer reports itself."""

import contextlib
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from getiaction_launch.run.metric import warnings
from getiaction_launch.run.records import Progress
from getiaction_launch.run.run import Run


@dataclass
class OwnProgress:
    """What a program has reported in this attempt.

    Attributes:
        run: The run that the program trains.
        first_step: The first step that was reported.
        started_at: When that was, by the monotonic clock.
        not_finite: Since which step metrics have not been finite.
    """

    run: Run
    first_step: int
    started_at: float
    not_finite: dict[str, int] = field(default_factory=dict)

    def write(self, step: int, total: int | None, metrics: Mapping[str, float]) -> None:
        """Write ``progress.json``, unless the disk refuses that.

        Args:
            step: Steps so far, over all attempts of the run.
            total: Steps of the whole training; None if that is not known.
            metrics: The last value of each metric.
        """
        done = step - self.first_step
        now = time.monotonic()
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
