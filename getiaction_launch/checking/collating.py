"""Batches that cannot be made of their samples, which is a fault of the data and of no model."""

import contextlib
import inspect
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from getiaction_launch.checking.frames import is_own

_FETCHING = "torch/utils/data/_utils/fetch.py"
"""Where a DataLoader reads the samples of a batch, and has it made of them."""
NONE = "found <class 'NoneType'>"
"""What torch says of a field of which no batch can be made."""
_DEEPEST = 3
"""How many datasets and transforms may lie in each other."""


def is_of_loading(error: BaseException) -> bool:
    """Return whether an error was raised while a DataLoader made a batch.

    Args:
        error: The exception that a trial has raised.
    """
    return _fetching(error) is not None


def fix_of_batch(error: BaseException, what: str) -> str | None:
    """Return what to do about samples that make no batch; None if it is about something else.

    Args:
        error: The exception that a trial has raised.
        what: What it says is wrong.
    """
    fetching = _fetching(error)
    if fetching is None:
        return None
    dataset = getattr(fetching.f_locals.get("self"), "dataset", None)
    if NONE in what:
        return fix_of_none(dataset, fetching.f_locals.get("data"))
    return fix_of_sizes(dataset) if "equal size" in what else None


def fix_of_none(dataset: object, samples: object) -> str | None:
    """Return what to do about a field that is None; None if no sample has one.

    Args:
        dataset: The dataset that a DataLoader has.
        samples: The samples of which no batch can be made.
    """
    for sample in samples if isinstance(samples, list) else ():
        fields = sample.items() if isinstance(sample, Mapping) else ()
        if name := next((name for name, value in fields if value is None), None):
            kind = type(dataset).__name__
            return (
                f"Give {name!r} another value than None in all samples of {kind}, such as '' "
                "or 0, or leave it out"
            )
    return None


def fix_of_sizes(dataset: object) -> str:
    """Return what to do about a dataset whose samples have several sizes.

    Args:
        dataset: The dataset that a DataLoader has.
    """
    sizes = "Give all samples one size"
    if (transform := next(_own_transforms(dataset), None)) is not None:
        kind = transform if inspect.isroutine(transform) else type(transform)
        name, file = kind.__qualname__, Path(inspect.getfile(kind)).name
        place = f"{file}:{inspect.getsourcelines(kind)[1]}"
        return f"{sizes}: {name} ({place}) must return it, for example by a Resize behind it"
    return f"{sizes} in {type(dataset).__name__}, or pad them in a collate_fn of the DataLoader"


def _fetching(error: BaseException) -> FrameType | None:
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((each for each in frames if each.f_code.co_filename.endswith(_FETCHING)), None)


def _own_transforms(owner: object, depth: int = 0) -> Iterator[Any]:
    """Yield what the user has written of the functions that a dataset keeps."""
    held = vars(owner).values() if hasattr(owner, "__dict__") else ()
    for value in [*held] if depth < _DEEPEST else ():
        for each in value if isinstance(value, (list, tuple)) else [value]:
            kind = each if inspect.isroutine(each) else type(each)
            with contextlib.suppress(OSError, TypeError):
                if callable(each) and is_own(inspect.getfile(kind)):
                    yield each
                    continue
            yield from _own_transforms(each, depth + 1) if hasattr(each, "__dict__") else ()
