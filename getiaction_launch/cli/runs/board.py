"""Shows the progress of several runs: a line for each and a total."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from getiaction_launch.cli.show import final_loss, phase, say
from getiaction_launch.launch.status import RunStatus
from getiaction_launch.plan.text import clean_line
from getiaction_launch.run.state import JobState

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

QUIET_PERIOD_SECONDS = 60
"""How often to say the total off a terminal, if nothing else has happened."""
_OTHER_LINES = 2  # the total, and where the cursor is


class Board:
    """Shows several runs: bars on a terminal, elsewhere a line whenever one of them changes."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._states: dict[str, JobState] = {}
        self._next_at = 0.0

    def __call__(self, statuses: Sequence[RunStatus]) -> None:
        """Show one look at the runs.

        Args:
            statuses: The status of each run, always in the same order.
        """
        if sys.stderr.isatty():
            self._draw(statuses)
            return
        for status in statuses:
            if self._states.get(status.run.name) is not status.state:
                self._states[status.run.name] = status.state
                self._next_at = 0.0
                say(f"{status.run.name} {_words(status)}")
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + QUIET_PERIOD_SECONDS
            say(total(statuses))

    def close(self) -> None:
        """Give the terminal back: its lines and its cursor."""
        if self._bar:
            self._bar.stop()

    def _draw(self, statuses: Sequence[RunStatus]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        if self._bar is None:
            # A name in brackets is not Rich's markup.
            description = TextColumn("{task.description}", markup=False)
            columns = (description, BarColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            for _ in range(len(statuses) + 1):
                self._bar.add_task("starting", total=None)
            self._bar.start()
        *ids, id_of_total = self._bar.task_ids
        # Those that train come first where the terminal has too few lines.
        order = sorted(range(len(statuses)), key=lambda i: _order(statuses[i].state))
        shown = set(order[: max(1, self._bar.console.height - _OTHER_LINES)])
        for number, status in enumerate(statuses):
            progress = status.progress
            steps = progress.total_steps if not status.state.is_over else progress.step
            self._bar.update(
                ids[number],
                description=clean_line(f"{status.run.name} {_words(status)}"),
                completed=progress.step or 0,
                total=steps or (1 if status.state.is_over else None),
                visible=number in shown,
            )
        self._bar.update(
            id_of_total,
            description=total(statuses),
            completed=sum(map(_share, statuses)),
            total=len(statuses),
        )


def total(statuses: Sequence[RunStatus]) -> str:
    """Say how many of these runs are in which state: ``8 runs: 6 SUCCEEDED, 2 RUNNING``."""
    counts = Counter(status.state for status in statuses)
    words = ", ".join(f"{counts[state]} {state.value}" for state in JobState if counts[state])
    return f"{len(statuses)} runs: {words}"


def _words(status: RunStatus) -> str:
    if status.state is JobState.SUCCEEDED:
        loss = final_loss(status.progress).split("  ")[0]
        return f"{status.state.value}  {loss}" if loss != "-" else status.state.value
    if status.state is JobState.RUNNING:
        return f"{status.state.value}  {phase(status)}"
    return phase(status).partition("\n")[0]


def _order(state: JobState) -> int:
    return 0 if state is JobState.RUNNING else 1 if not state.is_over else 2


def _share(status: RunStatus) -> float:
    """How much of a run is behind it, from 0 to 1."""
    step, steps = status.progress.step, status.progress.total_steps
    if status.state.is_over:
        return 1.0
    return min(1.0, step / steps) if step and steps else 0.0
