"""Numbers the fits of a program, and finds what each of them starts from in this attempt."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from getiaction_launch.errors import CheckError
from getiaction_launch.run.checkpoint import Checkpoint
from getiaction_launch.run.finished import FinishedFit, finished_fits, path_of
from getiaction_launch.run.run import Run
from getiaction_launch.worker.assignment import own_attempt
from getiaction_launch.worker.fitting.lightning_seams import is_tuning
from getiaction_launch.worker.fitting.program import digest
from getiaction_launch.worker.progress import say


@dataclass(frozen=True)
class Fit:
    """One ``Trainer.fit`` of the program.

    Attributes:
        number: Its number in the run, from 0.
        program: Digest of what it trains.
        resume_from: Checkpoint that it starts from; None for a new start.
        is_finished: Whether that is its end state, so that nothing is left to train.
        is_rerun: Whether a later fit has been saved already, so that this one must not be.
    """

    number: int
    program: str
    resume_from: Path | None = None
    is_finished: bool = False
    is_rerun: bool = False


UNSAVED = Fit(-1, "", is_rerun=True)
"""A fit that leaves nothing to resume, such as the search for a learning rate."""


class Fits:
    """The fits of one process, in their order.

    Args:
        run: The run that this worker belongs to.
        checkpoint: The newest committed checkpoint, from which the attempt resumes.
        attempt: Number of this attempt of the run, from 0.
    """

    def __init__(self, run: Run, checkpoint: Checkpoint | None, attempt: int) -> None:
        self._run, self._checkpoint = run, checkpoint
        self._finished = {
            fit: end
            for fit, end in finished_fits(run).items()
            if end.attempt < attempt and not _is_newer(checkpoint, end)
        }
        self._last = -1

    @classmethod
    def of(cls, run: Run) -> "Fits":
        """Begin to count the fits of this process, which is a worker of an attempt.

        Raises:
            CheckError: If the checkpoint to resume from is missing or incomplete.
        """
        path = os.environ.get("GETIACTION_LAUNCH_RESUME_FROM")
        checkpoint = Checkpoint.read(Path(path)) if path else None
        if path and not checkpoint:
            raise CheckError(
                f"the checkpoint {path!r} is missing or incomplete.",
                f"Resume from the previous one: getiaction-launch resume {run.directory}",
            )
        return cls(run, checkpoint, own_attempt())

    def begin(self, trainer: Trainer, arguments: Mapping[str, Any]) -> Fit:
        """Find which fit begins now, and what it starts from.

        Args:
            trainer: The Trainer whose ``fit`` is called.
            arguments: The arguments of that call, by name.
        """
        if is_tuning(trainer):
            return UNSAVED
        program = digest(trainer, arguments)
        number = self._number_of(program, is_speaking=trainer.is_global_zero)
        self._last = number
        if (finished := self._finished.get(number)) and finished.program == program:
            return Fit(number, program, path_of(self._run, number), is_finished=True)
        checkpoint = self._checkpoint
        if checkpoint and checkpoint.fit == number:
            return Fit(number, program, checkpoint.path)
        return Fit(number, program, is_rerun=checkpoint is not None and number < checkpoint.fit)

    def _number_of(self, program: str, *, is_speaking: bool) -> int:
        """Return the number of the fit that comes now: usually the next one."""
        expected = self._last + 1
        known: dict[int, FinishedFit | Checkpoint] = dict(self._finished)
        if self._checkpoint and self._checkpoint.fit not in known:
            known[self._checkpoint.fit] = self._checkpoint
        earlier = known.get(expected)
        if earlier is None or earlier.program in (None, program):
            return expected
        same = [n for n, each in known.items() if n > expected and each.program == program]
        if same:
            number, what = min(same), f"it continues as fit {min(same)}, which is the same"
        elif isinstance(earlier, Checkpoint):
            number, what = expected, "training resumes from its checkpoint all the same"
        else:
            number, what = max(known) + 1, "it is trained from its beginning"
        if is_speaking:
            say(
                f"fit {expected} of this program has another model, other data or other limits "
                f"than in an earlier attempt: {what}."
            )
        return number


def _is_newer(checkpoint: Checkpoint | None, end: FinishedFit) -> bool:
    """Whether a fit has been trained again since its end was saved."""
    return (
        checkpoint is not None
        and checkpoint.fit == end.fit
        and (checkpoint.attempt, checkpoint.saved_at) > (end.attempt, end.saved_at)
    )
