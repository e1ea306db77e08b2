"""What a checkpoint holds besides the weights: it must be written, and a restart must load it."""

import io
import re
from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.blame import STAND_IN, untried, words_of
from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, refusal, unknown
from getiaction_launch.checking.frames import own_frames
from getiaction_launch.checking.lightning_seams import content_of, restore
from getiaction_launch.checking.pickling import why_unpicklable

_LARGE = ("state_dict", "optimizer_states")
_SHAPE = re.compile(r"[\w.]*?(\w+)\(\) (?:takes \d+ positional|missing \d+ required positional)")
_HOOKS = "(self, checkpoint) of a model, (self, trainer, pl_module, checkpoint) of a callback"
_OF_CHECKS = "getiaction_launch.checking."
"""Where what stands in for a logger in a trial is defined; a run has the user's own."""
_SURE = (KeyError, TypeError, AttributeError, IndexError, ValueError, NameError, ImportError)


def check_resuming(built: Built, trial: Any, content: dict[str, Any]) -> Iterator[Finding]:  # noqa: ANN401
    """Check that a checkpoint can be written, and that a run can resume from it.

    Args:
        built: What the spec names.
        trial: The Trainer that has trained, before it is torn down.
        content: Is filled with what the checkpoint holds besides weights and optimizers.
    """
    import torch

    try:
        whole = content_of(trial)
    except Exception as error:  # noqa: BLE001 - whatever the user's hooks raise
        yield _judged(error, "no checkpoint can be written")
        return
    small = {name: value for name, value in whole.items() if name not in _LARGE}
    odd = [(key, why) for key, value in small.items() if (why := why_unpicklable(value))]
    for key, why in odd:
        if STAND_IN.search(why):
            yield unknown("checkpoints", f"{key!r} in it stands for what only a run has")
            continue
        yield refusal(
            "checkpoints",
            "model",
            f"model: no checkpoint can be written, since {key!r} in it cannot be pickled: {why}.",
            f"Put plain values into checkpoint[{key!r}], as in on_save_checkpoint of "
            f"{type(built.model).__name__}",
        )
    if odd:
        return
    content |= small
    try:
        file = io.BytesIO()
        torch.save(small, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)  # what was written a moment ago
        restore(trial, {**whole, **loaded})
    except Exception as error:  # noqa: BLE001 - as above
        yield _judged(error, "a run cannot resume from its checkpoints")


def unsafe_classes(content: dict[str, Any]) -> list[str]:
    """Return the names that torch refuses to load from a checkpoint by default.

    Args:
        content: What the checkpoint holds besides weights and optimizers.
    """
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    return sorted(name for name in found if not name.startswith(_OF_CHECKS))


def _judged(error: Exception, lead: str) -> Finding:
    """Return what an error stands for; nothing is refused that may come of the trial."""
    what, _ = words_of(error)
    if why := untried(error, [error], "model"):
        return unknown("checkpoints", why)
    frames = own_frames(error)
    found = _SHAPE.match(str(error))
    if found and not frames:
        what = f"{lead[0].upper()}{lead[1:]}: {what}"
        fix = f"Give {found[1]} the parameters that Lightning calls it with, such as {_HOOKS}"
        return refusal("checkpoints", found[1], what, fix)
    if not frames or not isinstance(error, _SURE):
        return unknown("checkpoints", f"{lead} of this trial: {what}")
    last = frames[-1]
    line = f" ({last.line})" if last.line else ""
    return refusal(
        "checkpoints",
        last.name,
        f"{lead[0].upper()}{lead[1:]}: {last.name} raises {what}",
        f"Write in on_save_checkpoint or state_dict what is read again; it was raised at "
        f"{last.filename}:{last.lineno}{line}",
    )
