"""Finished fits: how every ``Trainer.fit`` of a program ended, so that no attempt repeats it.

A program may call ``fit`` several times, and what follows a fit may need its Trainer and model. So
when a fit is over, its end state is saved to ``launch/finished/checkpoints/fit_N.ckpt``, and counts
once the marker ``fit_N.json`` lies next to it, as for
:mod:`~getiaction_launch.run.checkpoint`. A later attempt restores it instead of training again.
"""

from dataclasses import dataclass
from pathlib import Path

from getiaction_launch.errors import RecordError, StorageError
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.run.checkpoint import (
    Marker,
    move_into_place,
    size_bytes_of,
    sync_directory,
)
from getiaction_launch.run.run import Run
from getiaction_launch.storage.paths import children, read_json, remove

PLACE = "launch/finished/checkpoints"
"""Where the end states are, relative to the run's directory; the mirror uploads checkpoints."""


@dataclass(frozen=True)
class FinishedFit(Marker):
    """The marker of one end state.

    Attributes:
        is_kept: Whether the user's callbacks have kept a checkpoint of this fit in the run.
    """

    is_kept: bool = False


def path_of(run: Run, fit: int) -> Path:
    """Return where the end state of a fit is, or will be."""
    return run.directory / PLACE / f"fit_{fit}.ckpt"


def partial_of(run: Run, fit: int) -> Path:
    """Return where to write an end state before it counts; the same path on every rank."""
    return path_of(run, fit).with_name(f".fit_{fit}.ckpt.partial")


def finished_fits(run: Run) -> dict[int, FinishedFit]:
    """Return the complete end states of a run by the number of their fit, lowest first.

    Raises:
        StorageError: If remote storage does not answer.
    """
    found = {}
    for marker in children(run.directory / PLACE):
        if marker.suffix != ".json":
            continue
        try:
            record = read_dataclass(FinishedFit, read_json(marker), str(marker))
            size_bytes = size_bytes_of(path_of(run, record.fit))
        except StorageError:
            raise
        except (OSError, ValueError, RecordError):
            continue  # damaged or incomplete: that fit is trained again
        if size_bytes == record.size_bytes and marker.stem == f"fit_{record.fit}":
            found[record.fit] = record
    return dict(sorted(found.items()))


def commit_finished(
    run: Run,
    fit: int,
    *,
    attempt: int,
    program: str,
    step: int,
    epoch: int,
    saved_at: float,
    is_kept: bool,
) -> None:
    """Make the end state at :func:`partial_of` count.

    Args:
        run: The run that the fit belongs to.
        fit: Number of the fit in the program, from 0.
        attempt: Number of the attempt that finished it, from 0.
        program: Digest of what was trained.
        step: Training batches of the whole fit.
        epoch: Epochs of the whole fit.
        saved_at: When it was saved, in seconds since the epoch.
        is_kept: Whether the user's callbacks have kept a checkpoint of this fit in the run.

    Raises:
        OSError: If the disk refuses a write; the end state does not count then.
    """
    partial, path = partial_of(run, fit), path_of(run, fit)
    marker = path.with_suffix(".json")
    marker.unlink(missing_ok=True)  # never one state with the marker of another
    size_bytes = move_into_place(partial, path)
    record = FinishedFit(
        attempt=attempt,
        fit=fit,
        step=step,
        epoch=epoch,
        reason="end",
        size_bytes=size_bytes,
        saved_at=saved_at,
        program=program,
        is_kept=is_kept,
    )
    record.write(path)
    sync_directory(path.parent)


def remove_needless(run: Run) -> None:
    """Remove the end states of a run that has finished, but those of fits that kept nothing else.

    Raises:
        OSError: If a file cannot be removed.
        StorageError: If remote storage does not answer.
    """
    for fit, record in finished_fits(run).items():
        if record.is_kept:
            # The marker first: an end state that is removed in part must not count.
            remove(path_of(run, fit).with_suffix(".json"))
            remove(path_of(run, fit))
