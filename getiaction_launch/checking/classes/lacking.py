"""What a run's Trainer does not have, as its own settings leave it out."""

import contextlib
import inspect
import re
import traceback
from types import FrameType
from typing import Any

from getiaction_launch.checking.frames import is_own, own_frames

_CHECKPOINTS = "trainer.enable_checkpointing"
_PARTS = {
    "checkpoint_callback": (_CHECKPOINTS, f"--{_CHECKPOINTS}=true"),
    "early_stopping_callback": (
        "trainer.callbacks",
        "Name it: --trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor=METRIC",
    ),
    "logger": ("trainer.logger", "--trainer.logger=true"),
    "datamodule": ("data", "Give the Trainer one: trainer.fit(model, datamodule=data)"),
}
"""Parts of a Trainer, the key that decides whether it has them, and how it comes to have one."""


def of_lacking_part(error: BaseException) -> tuple[str, str, str] | None:
    """Return that a program reads something of a part which its Trainer does not have.

    A trial's Trainer lacks what that of the run lacks, so the run will fail in the same way.

    Args:
        error: The exception that a trial has raised.

    Returns:
        The key that leaves the part out, what is wrong, and the fix; None if it is about something
        else.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    calls = own_frames(error)
    if not frames or not calls or not is_own(frames[-1].f_code.co_filename):
        return None
    line = calls[-1].line or ""
    if isinstance(error, AttributeError) and error.obj is None:
        read = re.findall(rf"([A-Za-z_][\w.]*)\.{error.name}\b", line)
    elif isinstance(error, IndexError):
        read = re.findall(r"([A-Za-z_][\w.]*)\[", line)
    else:
        return None
    for chain in read:
        owner, _, name = _origin_of(chain, frames[-1]).rpartition(".")
        part = name.removesuffix("s") if isinstance(error, IndexError) else name
        if part in _PARTS and _lacks(owner, name, frames[-1]):
            key, fix = _PARTS[part]
            what = f"{calls[-1].filename}:{calls[-1].lineno} ({line}): {owner}.{name} is "
            what += "empty" if isinstance(error, IndexError) else "None"
            return key, f"{what} in this run.", f"{fix}; or ask first: if {owner}.{name}"
    return None


def _origin_of(chain: str, frame: FrameType) -> str:
    """Return what a name of a function stands for there, where it is assigned once."""
    with contextlib.suppress(OSError, TypeError):
        source = inspect.getsource(frame.f_code)
        found = re.findall(rf"(?m)^\s*{re.escape(chain)}\s*=\s*([A-Za-z_][\w.]*)\s*$", source)
        return str(found[0]) if len(found) == 1 else chain
    return chain


def _lacks(owner: str, name: str, frame: FrameType) -> bool:
    """Whether a Trainer, or the model that has one, lacks a part of this name."""
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer

    first, *rest = owner.split(".")
    value: Any = frame.f_locals.get(first)
    with contextlib.suppress(AttributeError, RuntimeError):
        for each in rest:
            value = getattr(value, each)
        is_known = isinstance(value, (Trainer, LightningModule, LightningDataModule))
        return is_known and not getattr(value, name)
    return False
