"""Finds where a trajectory first differs from another one, and whose difference that is.

A difference has one cause and many consequences, so only the first one counts. What comes first in
a step decides: the batch is the loader's; weights that differ at once after resuming, although
the batches are the same, were not in the checkpoint; a loss that differs for the same batch and the
same weights comes from random numbers, or from state that somebody keeps outside of the checkpoint.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from getiaction_launch.errors import counted
from getiaction_launch.run.rehearsal.trajectory import Row

Key = tuple[int, int, str]
"""Fit, step and kind of a row."""
Rows = Mapping[Key, Row]
"""The rows of one rank."""
Kind = Literal["missing", "batch", "weights", "loss", "logged", "checkpoint"]
Owner = Literal[
    "loader",
    "randomness",
    "weights",
    "optimizer",
    "scheduler",
    "callback",
    "module",
    "data",
    "logger",
    "checkpoint",
    "training",
    "unknown",
]
_GENERATORS = {"python": "Python's", "numpy": "NumPy's", "torch": "torch's", "cuda": "CUDA's"}
_OWNERS: tuple[Owner, ...] = ("callback", "module", "data", "loader", "scheduler", "optimizer")
SEED = "Seed them: seed_everything: 1 in a spec, seed_everything(1, workers=True) in a script."
_STATE: Mapping[str, str] = {
    "callback": "Return it from the callback's state_dict() and take it back in load_state_dict().",
    "module": "Register it as a buffer, or add it in on_save_checkpoint() of the module and take "
    "it back in on_load_checkpoint().",
    "data": "Return it from the datamodule's state_dict() and take it back in load_state_dict().",
    "loader": "Give the loader state_dict() and load_state_dict(), and keep it there.",
    "optimizer": "Its load_state_dict() must restore all that its state_dict() has.",
    "scheduler": "Its load_state_dict() must restore all that its state_dict() has.",
    "weights": "Nothing may change the weights after the checkpoint was loaded, as in "
    "on_fit_start() or on_train_start().",
}


@dataclass(frozen=True)
class Difference:
    """The first difference between two trajectories, or one between what they have left.

    Attributes:
        owner: Who has caused the difference.
        what: What differs, and why, in sentences for people.
        fix: What to do about it; empty if nobody can say.
        step: The step in which it was seen; None if it was not seen in a step.
        rank: The rank that saw it; None if it concerns the whole training.
        parts: Names of the state that differs and was not restored.
    """

    owner: Owner
    what: str
    fix: str = ""
    step: int | None = None
    rank: int | None = None
    parts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """Where two trajectories differ first.

    Attributes:
        kind: What of the row differs.
        key: Fit, step and kind of the row.
        rank: The rank that has recorded it.
        names: Names of the logged values that differ, or of the parts of a checkpoint.
    """

    kind: Kind
    key: Key
    rank: int
    names: list[str] = field(default_factory=list)


def find_first(
    expected: Sequence[Rows], found: Sequence[Rows], left_out: Collection[str] = ()
) -> Place | None:
    """Find where trajectories differ first; None if they are equal.

    Args:
        expected: The rows of each rank of the undisturbed training.
        found: The rows of each rank of the other one.
        left_out: Names of logged values that are not compared.
    """
    places = []
    for rank, (own, other) in enumerate(zip(expected, found, strict=True)):
        for key in sorted(own, key=_in_order):
            if place := _compare(own[key], other.get(key), key, rank, left_out):
                places.append(place)
                break
    return min(places, key=lambda place: _in_order(place.key), default=None)


def _in_order(key: Key) -> tuple[int, bool, int]:
    fit, step, kind = key
    return fit, kind == "end", step


def _compare(
    expected: Row, found: Row | None, key: Key, rank: int, left_out: Collection[str]
) -> Place | None:
    if found is None:
        return Place("missing", key, rank)
    for kind in ("batch", "weights", "loss"):
        if getattr(expected, kind) != getattr(found, kind):
            return Place(kind, key, rank)
    if names := differing_values(expected.logged, found.logged, left_out):
        return Place("logged", key, rank, names)
    if names := differing_values(expected.checkpoint, found.checkpoint):
        return Place("checkpoint", key, rank, names)
    return None


def differing_values(
    expected: Mapping[str, str], found: Mapping[str, str], left_out: Collection[str] = ()
) -> list[str]:
    """Return the names of the values that differ, or that only one of the two has."""
    names = sorted({*expected, *found} - {*left_out})
    return [name for name in names if expected.get(name) != found.get(name)]


def blame_program(place: Place, expected: Row, found: Row) -> Difference:
    """Say why two trainings differ to which nothing has happened yet.

    Args:
        place: Where they differ first.
        expected: The row there of one training.
        found: The row there of the other one.
    """
    step = place.key[1]
    generators = _differing_generators(expected, found)
    own = [name for name in differing_parts(expected, found) if "random generator" in name]
    said = f"In two undisturbed runs, step {step} of rank {place.rank} differs: "
    about = (step, place.rank, own)
    if place.kind == "batch":
        loader = _loader(expected)
        what = f"{said}{loader} gives other batches each time, as its order or what it draws is "
        return Difference("loader", f"{what}not seeded{_named(generators, own)}.", SEED, *about)
    if place.kind == "weights":
        when = "training begins with" if step <= 1 else "the same batches give"
        what = f"{said}{when} other weights each time{_named(generators, own)}."
        return Difference("randomness", what, SEED, *about)
    if place.kind == "loss":
        what = f"{said}the same batch and weights give another loss each time"
        if not generators and not own:
            fix = "Look for a random generator that is not seeded, or an operation whose result "
            return Difference("randomness", f"{what}.", f"{fix}varies.", *about)
        return Difference("randomness", f"{what}{_named(generators, own)}.", SEED, *about)
    what = "In two undisturbed runs, all steps are the same, but the last checkpoint has other "
    fix = "Have it saved after a number of steps or epochs: train_time_interval, for one, saves it "
    fix += "in another step each time."
    return Difference("checkpoint", f"{what}{_list(place.names)} each time.", fix, *about)


def blame_resume(
    place: Place,
    expected: Row,
    found: Row | None,
    resumed: tuple[Row, Row] | None,
    volatile: Collection[str] = (),
) -> Difference:
    """Say why a training that was resumed differs from the undisturbed one.

    Args:
        place: Where it differs first.
        expected: The undisturbed row there.
        found: The row there after resuming; None if it is missing.
        resumed: The undisturbed row of the first step after resuming, and that after resuming.
        volatile: Names of parts of the state that differ between undisturbed runs, too.
    """
    step, rank = place.key[1], place.rank
    if found is None:
        what = f"Step {step} was not trained on rank {rank}."
        return Difference("training", what, "", step, rank)
    if place.kind == "checkpoint":
        what = f"The last checkpoint has other {_list(place.names)}."
        return Difference("checkpoint", what, "", step, rank)
    if place.kind == "batch":
        return _of_loader(resumed and resumed[1], step, rank)
    parts = [name for name in differing_parts(*resumed) if name not in volatile] if resumed else []
    if place.kind == "weights" and resumed and step == resumed[1].step:
        names = [part for part in parts if part.startswith("weights ")]
        what = f"Right after resuming, before step {step}, {_list(names) or 'the weights'} "
        what += f"differ{'s' if len(names) == 1 else ''} from what the checkpoint was saved with."
        return Difference("weights", what, _STATE["weights"], step, rank, names)
    return _of_state(place, parts, _differing_generators(expected, found))


def _of_state(place: Place, parts: Sequence[str], generators: Sequence[str]) -> Difference:
    """Blame the state that was not restored, or else the random numbers."""
    step = place.key[1]
    about = (step, place.rank)
    differs = {"loss": "the loss differs", "weights": "the weights differ"}.get(place.kind)
    what = f"From step {step} on, {differs}, although the batches are the same."
    if differs is None:
        what = f"From step {step} on, {_list(place.names)} is logged with another value, although "
        what += "the loss is the same."
    for owner in _OWNERS:
        if own := [part for part in parts if part.startswith(f"{owner} ")]:
            what += f" After resuming, {_list(own)} {'was' if len(own) == 1 else 'were'} not what "
            return Difference(owner, f"{what}it had been.", _STATE[owner], *about, own)
    if generators:
        what += f" Random numbers differ by then{_named(generators, [])}."
        fix = "Something draws from them after resuming that does not in an undisturbed run."
        return Difference("randomness", what, fix, *about)
    if differs is None:
        fix = "What this value is computed from must be in the checkpoint."
        return Difference("logger", what, fix, *about)
    fix = "Something outside of the checkpoint decides it: look for state in objects that neither "
    return Difference("unknown", what, f"{fix}Lightning nor you save.", *about)


def _of_loader(resumed: Row | None, step: int, rank: int) -> Difference:
    what = f"From step {step} on, rank {rank} gets other batches: {_loader(resumed)} "
    if resumed and any(loader.has_state for loader in resumed.loaders):
        what += "does not continue where it was, although it has a state_dict()."
        fix = "Its state_dict() must hold all that decides which batches come next."
    else:
        what += "has no state_dict(), and its order is not the same when it is read again."
        fix = (
            "Give it state_dict() and load_state_dict(), or let its order follow from torch's "
            "global generator alone, or from a seed and the epoch."
        )
    return Difference("loader", what, fix, step, rank)


def _loader(row: Row | None) -> str:
    names = [loader.name for loader in row.loaders] if row else []
    return f"the loader {_list(names)}" if names else "the loader"


def _differing_generators(expected: Row, found: Row) -> list[str]:
    names = differing_values(expected.random, found.random)
    return [_GENERATORS.get(name, name) for name in names]


def differing_parts(expected: Row, found: Row) -> list[str]:
    """Return the names of the parts of the state that differ between two rows."""
    return [part for part in differing_values(expected.parts, found.parts) if part in found.parts]


def _named(generators: Sequence[str], own: Sequence[str]) -> str:
    """Say which random generators begin in another state each time."""
    names = [f"{name} global generator" for name in generators] + list(own)
    return f" ({_list(names)} begins differently)" if names else ""


_SHOWN = 3


def _list(names: Sequence[str]) -> str:
    """Join a few names, and count the others."""
    shown = list(names[:_SHOWN])
    if len(names) > _SHOWN:
        shown.append(f"{counted(len(names) - _SHOWN, 'other')}")
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))
