"""The trajectory of a training: digests of what each rank saw and had in each step.

Each rank appends one line to ``launch/drill/attempt_A_rank_R.jsonl`` after every step. Two
trainings are the same if their rows are.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from getiaction_launch.errors import RecordError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.rehearsal.orders import drill_directory, fault_path
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import read_json, write_json
from getiaction_launch.storage.strict_json import dumps

_NAME = re.compile(r"attempt_(\d{1,4})_rank_(\d{1,6})\.jsonl")


@dataclass(frozen=True)
class LoaderFacts:
    """What is known of a training loader.

    Attributes:
        name: Class of the loader, its sampler and its dataset, for people.
        has_state: Whether it has ``state_dict`` and ``load_state_dict``.
    """

    name: str
    has_state: bool = False


@dataclass(frozen=True)
class Row:
    """One step of one rank, or the end of a fit.

    Attributes:
        kind: ``step``, or ``end`` for the state after the last step of a fit.
        fit: Number of the ``Trainer.fit`` of the program, from 0.
        step: Number of the training batch, from 1; it counts over all attempts.
        epoch: The epoch of the step, from 0.
        batch: Digest of the batch.
        weights: Digest of the module's state before the step.
        random: Digest of each global random generator before the step.
        loss: What ``training_step`` returned: the loss itself if it is one number.
        logged: Each logged value after the step.
        parts: Digest of each part of the state before the step, by its name; only in some steps.
        loaders: The training loaders; only in the first step of an attempt.
        means: Logged values that are means over an epoch; only at the end.
        checkpoint: Digests of the weights and of the optimizers in the last checkpoint that the
            program has kept; only at the end, on rank 0.
        resumed_from: Checkpoint that this attempt resumed from; only in its first step.
    """

    kind: Literal["step", "end"]
    fit: int
    step: int
    epoch: int = 0
    batch: str = ""
    weights: str = ""
    random: dict[str, str] = field(default_factory=dict)
    loss: str = ""
    logged: dict[str, str] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    loaders: list[LoaderFacts] = field(default_factory=list)
    means: list[str] = field(default_factory=list)
    checkpoint: dict[str, str] = field(default_factory=dict)
    resumed_from: str | None = None


@dataclass(frozen=True)
class FaultNote:
    """``launch/drill/fault_A.json``: the fault of attempt A. Written by the worker it begins in.

    Attributes:
        step: The step in which it came.
        what: What was done, in words for people.
        committed: Steps of the checkpoints that were committed by then.
    """

    step: int
    what: str = ""
    committed: list[int] = field(default_factory=list)

    @classmethod
    def read(cls, run: Run, attempt: int) -> "FaultNote | None":
        """Read the note of one attempt; None if nothing has happened to it.

        Raises:
            RecordError: If the file is damaged; the message names the file and the key.
        """
        path = fault_path(run, attempt)
        content = read_json(path)
        return None if content is None else read_dataclass(cls, content, str(path))

    def write(self, run: Run, attempt: int) -> None:
        """Write the note, so that it survives the death of this process."""
        write_json(fault_path(run, attempt), asdict(self))


Ranks = dict[int, list[Row]]
"""The rows of each rank in one attempt, in the order in which they were written."""


class Recorder:
    """Appends the rows of this rank to its file.

    Args:
        run: The run that this worker belongs to.
        attempt: Number of this attempt of the run, from 0.
        rank: Rank of this worker.
    """

    def __init__(self, run: Run, attempt: int, rank: int) -> None:
        directory = drill_directory(run)
        directory.mkdir(exist_ok=True)
        self._path = directory / f"attempt_{attempt}_rank_{rank}.jsonl"

    def write(self, row: Row) -> None:
        """Append a row; it stays when this process is killed."""
        content = {key: value for key, value in asdict(row).items() if value not in ("", {}, [])}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{dumps(content)}\n")


def read_attempts_of(run: Run) -> list[Ranks]:
    """Read what each attempt of a drill's run has recorded, the first one first.

    Raises:
        RecordError: If a file is damaged; the message names the file.
    """
    found: dict[int, Ranks] = {}
    for path in sorted(drill_directory(run).glob("*.jsonl")):
        if name := _NAME.fullmatch(path.name):
            found.setdefault(int(name[1]), {})[int(name[2])] = list(_rows(path))
    return [found.get(number, {}) for number in range(max(found, default=-1) + 1)]


def _rows(path: Path) -> Iterator[Row]:
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")  # a last one is cut
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecordError(
                f"{path}, line {number} is not JSON.", "Another program has written into it."
            ) from error
        yield read_dataclass(Row, content, f"{path}, line {number}")


def last_of_each(attempts: list[Ranks], rank: int) -> dict[tuple[int, int, str], Row]:
    """Return the rows of a rank by fit, step and kind; of a repeated step the last one.

    Args:
        attempts: The attempts as :func:`read_attempts_of` returned them.
        rank: Rank of the worker that recorded them.
    """
    rows = (row for ranks in attempts for row in ranks.get(rank, []))
    return {(row.fit, row.step, row.kind): row for row in rows}
