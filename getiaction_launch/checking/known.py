"""Errors that Lightning and torch raise in a step, where they say what a program does wrong."""

import contextlib
import inspect
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from getiaction_launch.checking.collating import fix_of_batch
from getiaction_launch.checking.frames import own_frames
from getiaction_launch.checking.loggers.stand_ins import fix_of_absent
from getiaction_launch.errors import nearest_first

_FIND_UNUSED = (
    "--trainer.strategy=ddp_find_unused_parameters_true, or have each batch use all weights"
)
_KNOWN = (
    (
        "Expected more than 1 value per channel",
        "data",
        "Set drop_last=True, or another batch size: the last batch of an epoch has one sample",
    ),
    (
        "backward through the graph a second time",
        "model",
        "Detach what training_step keeps of one batch for the next one: .detach()",
    ),
    (
        "does not require grad",
        "model",
        "The loss must depend on weights with requires_grad=True: see what freezes or detaches",
    ),
    (
        "created only for scalar outputs",
        "model",
        "Return one number from training_step: loss.mean()",
    ),
    (
        "same dtype, but got Double and Float",
        "data",
        "Give data and weights one type: tensor.float() where the data is read",
    ),
    (
        "No `configure_optimizers()` method defined",
        "model",
        "Define configure_optimizers, in this spelling: Lightning calls no other method",
    ),
    (
        "`train_dataloader` must be implemented",
        "data",
        "Name the data: --data=getiaction.data.LeRobotDataModule --data.root=DIRECTORY",
    ),
    (
        "the 'loss' key needs to be present",
        "model.training_step",
        "Return the loss under this name: return {'loss': loss}, or the loss alone",
    ),
    (
        "gradient clipping is not supported for manual optimization",
        "trainer.gradient_clip_val",
        "Leave it out, and clip after manual_backward: self.clip_gradients(optimizer, 1.0)",
    ),
    (
        "parameters that were not used in producing the loss",
        "trainer.strategy",
        _FIND_UNUSED,
    ),
    (
        "Expected to have finished reduction",
        "trainer.strategy",
        _FIND_UNUSED,
    ),
    (
        "Tuning the batch size is currently not supported with distributed strategies",
        "trainer.strategy",
        "Remove scale_batch_size, and give the batch size that it finds in a run on one device",
    ),
    (
        "more than one stateful callback",
        "trainer.callbacks",
        "Remove one of them, or have them differ in monitor, mode or every_n_epochs",
    ),
)
"""Words of Lightning's messages that name no key, with the key and what to do."""
NO_MODULE = re.compile(r"No module named '(\w+)")
"""How Python says that a package is not there."""
_HPARAMS = re.compile(r"'AttributeDict' object has no attribute '(\w+)'")
_CLASH = re.compile(r"merging hparams: the keys \[(.*?)\] are present in both")
_TWICE = "backward through the graph a second time"
_NO_TENSOR = "`training_step` must return a Tensor"
_NO_GRADIENT = "does not require grad"
_WITHOUT_GRADIENTS = ("validation_step", "on_validation_epoch_end", "test_step", "predict_step")
_SHAPES = re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")
_IMAGE = re.compile(r"observation\.\S+ has (shape|dtype) ")
_TRANSFORMS = "data.image_transforms"
_CALL = re.compile(r"(\w+)\.(\w+)\(\) (?:missing \d+ required|takes \d+|got an unexpected keyword)")
_RAISES = re.compile(r"/(lightning/pytorch|pytorch_lightning)/(core|loops|trainer)/")
"""Where Lightning looks whether a program does what it asks of one, on every device alike."""


def is_of_lightning(error: BaseException) -> bool:
    """Return whether Lightning itself has raised an error, about what a program does.

    Args:
        error: The exception that a trial has raised.
    """
    frames = traceback.extract_tb(error.__traceback__)[-1:]
    return any(_RAISES.search(frame.filename) for frame in frames)


def known_error(
    error: BaseException, what: str, values: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Return the key that an error is about and what to do, if its words are known.

    Args:
        error: The exception that a trial has raised.
        what: What it says is wrong.
        values: The values of the spec by their keys.

    Returns:
        The key, empty for that of the class that has raised the error, and the fix; None if the
        words of the error are not known.
    """
    if (called := _CALL.search(what)) and (hook := _hook(called[1], called[2], error)):
        return "", f"Lightning calls it with these arguments: def {hook}"
    hparams = _HPARAMS.search(what)
    fix = fix_of_absent(error) or (hparams and _fix_of_hparams(hparams[1], error))
    if clash := _CLASH.search(what):
        fix = "A logger keeps those of both: give both the same values, or write in the datamodule "
        fix += f"self.save_hyperparameters(ignore=[{clash[1]}])"
    if shapes := _SHAPES.search(what):
        got, takes = shapes.groups()
        fix = f"A layer takes {takes} features and gets {got}: make it nn.Linear({got}, ...)"
    if fix := fix or _fix_of_step(error, what):
        return "", fix
    transforms = [key for key in values if key.startswith(_TRANSFORMS) and values[key] is not None]
    if fix := fix_of_batch(error, what):
        return _TRANSFORMS if transforms else "", fix
    if _IMAGE.search(what) and transforms:
        fix = "It must return float32 in [0, 1], as (3, height, width)"
        return _TRANSFORMS, f"{fix}, or (T, 3, height, width) of T frames"
    if _TWICE in what and _calls_backward(error):
        fix = "Remove backward() and step(), which Lightning calls itself; or do all of it yourself"
        return "model.training_step", f"{fix}: self.automatic_optimization = False"
    return next(((key, fix) for sign, key, fix in _KNOWN if sign in what), None)


def _fix_of_step(error: BaseException, what: str) -> str:
    if _NO_TENSOR in what:
        return f"Return the loss as the tensor that it is, without .item(){_number_in(error)}"
    if _NO_GRADIENT in what and (name := _validating(error)):
        return f"Remove backward() from {name}, in which Lightning turns gradients off"
    return ""


def _number_in(error: BaseException) -> str:
    """Return where a model's ``training_step`` makes a number of a tensor; empty if it does not."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        trainer = getattr(frame.f_locals.get("self"), "trainer", None)
        step = getattr(type(getattr(trainer, "lightning_module", None)), "training_step", None)
        with contextlib.suppress(OSError, TypeError):
            lines, first = inspect.getsourcelines(step)  # type: ignore[arg-type]
            for number, line in enumerate(lines, first):
                if ".item()" in line:
                    file = inspect.getfile(step)  # type: ignore[arg-type]
                    return f": {Path(file).name}:{number} ({line.strip()})"
    return ""


def _validating(error: BaseException) -> str:
    """Return the step without gradients in which an error was raised; empty for any other code."""
    names = [each.name for each in own_frames(error)]
    return next((each for each in names if each in _WITHOUT_GRADIENTS), "")


def _fix_of_hparams(name: str, error: BaseException) -> str:
    """Return how a hyperparameter comes to be in ``self.hparams``, which lacks it."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    kept = frames[-1].get("self") if frames else None
    near = nearest_first(name, map(str, kept)) if isinstance(kept, Mapping) else ""
    return near or f"Call self.save_hyperparameters() in __init__, before hparams.{name} is read"


def _hook(owner: str, name: str, error: BaseException) -> str | None:
    """Return how Lightning calls a method, if no code of the user's has called it."""
    if own_frames(error) and not is_of_lightning(error):
        return None
    from lightning.pytorch import Callback, LightningDataModule, LightningModule

    frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
    values = [value for each in frames for value in each.values()]
    owners = [each for each in values if owner in {kind.__name__ for kind in type(each).__mro__}]
    for kind in (Callback, LightningModule, LightningDataModule):
        if hasattr(kind, name) and (not owners or isinstance(owners[-1], kind)):
            names = inspect.signature(getattr(kind, name)).parameters
            shown = f"{name}({', '.join(names)})"
            return None if {"args", "kwargs"} & set(names) else shown
    return None


def _calls_backward(error: BaseException) -> bool:
    """Whether the model of a step that has failed calls backward itself."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            step = getattr(type(value), "training_step", None)
            with contextlib.suppress(OSError, TypeError):
                if step and ".backward(" in inspect.getsource(step):
                    return True
    return False
