"""Judges a run that was disturbed, by the trajectory of the one that was not."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from getiaction_launch.drill.blame import (
    Difference,
    Place,
    Rows,
    blame_program,
    blame_resume,
    differing_parts,
    differing_values,
    find_first,
)
from getiaction_launch.run.records import AttemptRecord
from getiaction_launch.run.rehearsal.trajectory import FaultNote, Ranks, Row, last_of_each


@dataclass(frozen=True)
class Trained:
    """What a run of a drill has recorded.

    Attributes:
        attempts: The rows of each attempt.
        records: The launcher's records of the attempts.
        notes: The note of the fault of each attempt; None if nothing happened to it.
    """

    attempts: list[Ranks]
    records: Sequence[AttemptRecord] = ()
    notes: Sequence[FaultNote | None] = ()

    @property
    def ranks(self) -> list[Rows]:
        """The rows of each rank; of a repeated step the last one."""
        numbers = range(1 + max((max(ranks, default=0) for ranks in self.attempts), default=0))
        return [last_of_each(self.attempts, rank) for rank in numbers]

    @property
    def undisturbed(self) -> list[Rows]:
        """The rows of each rank before anything happened."""
        return Trained(self.attempts[:1]).ranks


@dataclass
class Volatile:
    """What differs between undisturbed runs, and is of no account.

    Attributes:
        logged: Names of logged values, such as times.
        parts: Names of parts of the state, such as paths.
    """

    logged: set[str] = field(default_factory=set)
    parts: set[str] = field(default_factory=set)


def judge_program(
    expected: Sequence[Rows], other: Sequence[Rows], volatile: Volatile
) -> Difference | None:
    """Compare two trainings to which nothing has happened, as far as both have come.

    Args:
        expected: The rows of each rank of the whole training.
        other: Those of another one, perhaps of its beginning only.
        volatile: Gets what differs and is of no account.
    """
    common: list[Rows] = [
        {key: row for key, row in own.items() if key in rows}
        for own, rows in zip(expected, other, strict=False)
    ]
    while place := find_first(common, other, volatile.logged):
        if place.kind != "logged":
            return blame_program(place, *_rows_at(place, expected, other))
        volatile.logged |= {*place.names}
    for own, rows in zip(common, other, strict=True):
        pairs = ((own[key], rows[key]) for key in own)
        volatile.parts |= {name for pair in pairs for name in differing_parts(*pair)}
    return None


def _rows_at(place: Place, expected: Sequence[Rows], found: Sequence[Rows]) -> tuple[Row, Row]:
    return expected[place.rank][place.key], found[place.rank][place.key]


def judge_resume(
    expected: Sequence[Rows], trained: Trained, volatile: Volatile
) -> Difference | None:
    """Find the first difference of a training that was resumed, and say whose it is.

    Args:
        expected: The rows of each rank of the undisturbed training.
        trained: The training that was resumed.
        volatile: What is of no account.
    """
    found = trained.ranks
    means = means_of(expected)
    if len(found) != len(expected):
        return Difference("training", "Not every rank has trained.")
    place = find_first(expected, found, {*volatile.logged, *means})
    if place is None:
        return None
    row = found[place.rank].get(place.key)
    own = expected[place.rank]
    resumed = _resumed_row(trained, place)
    before = own.get((resumed.fit, resumed.step, "step")) if resumed else None
    pair = (before, resumed) if before and resumed else None
    return blame_resume(place, own[place.key], row, pair, volatile.parts)


def _resumed_row(trained: Trained, place: Place) -> Row | None:
    """Return the first row of the attempt in which a difference was seen."""
    fit, step, _ = place.key
    firsts = [ranks[place.rank][0] for ranks in trained.attempts[1:] if ranks.get(place.rank)]
    before = [row for row in firsts if row.kind == "step" and (row.fit < fit or row.step <= step)]
    return before[-1] if before else None


def means_of(ranks: Sequence[Rows]) -> set[str]:
    """Return the names of the logged values that are means over an epoch."""
    return {name for rows in ranks for row in rows.values() for name in row.means}


def notes_of(expected: Sequence[Rows], found: Sequence[Rows]) -> list[str]:
    """Say which means over an epoch cover only a part of it: Lightning does not save them."""
    means = means_of(expected)
    names = {
        name
        for own, rows in zip(expected, found, strict=False)
        for key in own
        if key in rows
        for name in differing_values(_only(own[key].logged, means), _only(rows[key].logged, means))
    }
    if not names:
        return []
    what = "the mean over an epoch that was interrupted covers its later steps only, as Lightning "
    return [f"{', '.join(sorted(names))}: {what}does not save the running mean."]


def _only(logged: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    return {name: value for name, value in logged.items() if name in names}


def problems_of(trained: Trained, num_ranks: int, disturbed: int) -> list[str]:
    """Say what else is wrong with how a run was resumed.

    Args:
        trained: The training that was resumed.
        num_ranks: How many ranks it has.
        disturbed: How many of its attempts were to be disturbed.
    """
    found = []
    for number in range(disturbed):
        note = trained.notes[number] if number < len(trained.notes) else None
        if note is None:
            found.append(f"The fault of attempt {number} did not come.")
            continue
        if number + 1 >= len(trained.attempts):
            found.append(f"No attempt has trained after attempt {number}.")
            continue
        found += _resumed_wrongly(trained, number + 1, num_ranks, note)
    return found


def _resumed_wrongly(trained: Trained, number: int, num_ranks: int, note: FaultNote) -> list[str]:
    ranks = trained.attempts[number]
    if sorted(ranks) != list(range(num_ranks)):
        return [f"Only the ranks {sorted(ranks)} have trained in attempt {number}."]
    starts = {(rows[0].resumed_from, rows[0].step) for rows in ranks.values() if rows}
    if len(starts) > 1:
        places = ", ".join(f"{name} at step {step}" for name, step in sorted(starts, key=str))
        return [f"The ranks of attempt {number} resumed from different checkpoints: {places}."]
    first, newest = trained.records[number].first_step, max(note.committed, default=0)
    if first < newest:
        what = f"although a checkpoint of step {newest} was committed"
        return [f"Attempt {number} resumed from step {first}, {what}."]
    return []


def repeated_steps(trained: Trained) -> int:
    """Return how many steps of a run were trained again, by the launcher's own records."""
    return count_repeated(trained.attempts, [record.first_step for record in trained.records[1:]])


def count_repeated(attempts: Sequence[Ranks], starts: Sequence[int]) -> int:
    """Return how many steps were trained again after they had been finished on rank 0.

    Args:
        attempts: The rows of each attempt.
        starts: After which step each attempt but the first one began.
    """
    total = 0
    for before, start in zip(attempts, starts, strict=False):
        steps = [row.step for row in before.get(0, []) if row.kind == "step" and row.fit == 0]
        total += max(0, max(steps, default=0) - start)
    return total
