"""Numbers the fits of a program, and finds what each of them starts from in this attempt."""

from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.run.checkpoint import Checkpoint
from getiaction_launch.run.finished import FinishedFit, finished_fits, path_of
from getiaction_launch.run.run import Run
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


class Fits:
    """The fits of one process, in their order.

    Args:
        run: The run that this worker belongs to.
        checkpoint: The newest committed checkpoint, from which the attempt resumes.
        attempt: Number of this attempt of the run, from 0.
    """

    def __init__(self, run: Run, checkpoint: Checkpoint | None, attempt: int) -> None:
        self._run, self._checkpoint = run, checkpoint
        finished = finished_fits(run).items()
        self._finished = {fit: record for fit, record in finished if record.attempt < attempt}
        self._last = -1

    def begin(self, program: str, *, is_speaking: bool) -> Fit:
        """Find which fit begins now, and what it starts from.

        Args:
            program: Digest of what it trains.
            is_speaking: Whether this rank writes the lines that concern all ranks.
        """
        number = self._number_of(program, is_speaking=is_speaking)
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
