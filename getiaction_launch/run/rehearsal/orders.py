"""What the workers of a drill are ordered to do: which fault comes at which step.

Orders travel in an environment variable, which the plan of a drill's run sets. No other run has it.
"""

import functools
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.run import Run
from getiaction_launch.storage.strict_json import dumps

ORDERS_VARIABLE = "GETIACTION_LAUNCH_DRILL"
"""Environment variable of the workers of a drill: their orders, as JSON."""

Fault = Literal["none", "warning", "sigterm", "kill-in-save", "lost-rank", "time-limit"]


@dataclass(frozen=True)
class Orders:
    """What each worker of a drill's run does besides training.

    Attributes:
        fault: What happens to the run.
        steps: In which step it happens: one step for each attempt that is disturbed, the first one
            first.
        saves: Steps after which the launcher saves a checkpoint; no other ones are saved by time.
        most_steps: Length of each ``Trainer.fit`` in steps, as far as its epochs allow.
        is_detailed: Whether the parts of the state are recorded in every step, and not only in the
            first one of each attempt.
        seed: Seed of the random generators before the program begins; None to leave them alone.
    """

    fault: Fault = "none"
    steps: list[int] = field(default_factory=list)
    saves: list[int] = field(default_factory=list)
    most_steps: int = 0
    is_detailed: bool = False
    seed: int | None = None

    def step_of(self, attempt: int) -> int | None:
        """Return in which step the fault comes; None if this attempt is left alone."""
        return self.steps[attempt] if attempt < len(self.steps) else None

    def to_env(self) -> dict[str, str]:
        """Return the environment variables that give workers these orders."""
        return {ORDERS_VARIABLE: dumps(asdict(self))}


def own_orders() -> Orders | None:
    """Return the orders of this process; None if it belongs to no drill."""
    return read_orders(text) if (text := os.environ.get(ORDERS_VARIABLE)) else None


@functools.cache
def read_orders(text: str) -> Orders:
    """Read what :meth:`Orders.to_env` has written."""
    return read_dataclass(Orders, json.loads(text), ORDERS_VARIABLE)


def drill_directory(run: Run) -> Path:
    """Return where the workers of a drill's run write what they have recorded."""
    return run.launch_directory / "drill"


def fault_path(run: Run, attempt: int) -> Path:
    """Return the file that says that the fault of an attempt has come."""
    return drill_directory(run) / f"fault_{attempt}.json"
