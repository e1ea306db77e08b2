"""Checkpoints that would never be saved, cannot be written, or cannot be loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from getiaction_launch.checking.apart.sandbox import wishes
from getiaction_launch.checking.built import Built, is_elsewhere
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal, unknown
from getiaction_launch.checking.lightning_seams import epochs_done
from getiaction_launch.errors import counted
from getiaction_launch.plan.plan import Saving
from getiaction_launch.storage.probe import is_writable

_DEFAULT_PERIOD_MINUTES = Saving().period_minutes
_SHOWN = 3
_OF_SHARDED = (".metadata", "meta.pt", "checkpoint", "latest")
"""Files of which a sharded checkpoint has one."""
_LIBRARIES = ("torch.", "torchmetrics.", "lightning.")
_OF_FIRST_RUN = {
    "best": "there is no best checkpoint before the first run has validated.",
    "hpc": "Lightning's requeueing has left no checkpoint in the directory of a new run.",
}


def check_checkpoints(built: Built) -> Iterator[Finding]:
    """Check when checkpoints are saved, and where.

    Args:
        built: What the spec names.
    """
    found = [*_of_period(built)]
    for callback in _checkpoint_callbacks(built):
        key = built.key_of(type(callback).__name__, "trainer.callbacks")
        found += [*_of_callback(built, callback, key)]
    found += [*check_resume(built)]
    yield from found
    if not any(finding.is_refusal for finding in found):
        path = built.spec.get("ckpt_path")
        minutes = built.plan.saving.period_minutes
        yield ok(
            "checkpoints", f"every {minutes:g} min" + (f", starts from {path}" if path else "")
        )


def _checkpoint_callbacks(built: Built) -> list[Any]:
    from lightning.pytorch.callbacks import ModelCheckpoint

    if built.arguments.get("fast_dev_run"):
        return []  # which turns them off
    return [each for each in built.trainer.callbacks if isinstance(each, ModelCheckpoint)]


def _of_period(built: Built) -> Iterator[Finding]:
    limit, period = built.place.time_limit_minutes, built.plan.saving.period_minutes
    if limit and period != _DEFAULT_PERIOD_MINUTES and period >= limit:
        yield refusal(
            "checkpoints",
            "saving.period_minutes",
            f"saving.period_minutes={period:g} is not less than the time limit of {limit:g} "
            "minutes, so a node that is lost costs all of a job's training.",
            f"In the cluster config: saving: {{period_minutes: {max(1, limit / 6):.0f}}}; or a "
            f"longer limit: -t {2 * period:.0f}",
        )


def _of_callback(built: Built, callback: Any, key: str) -> Iterator[Finding]:  # noqa: ANN401
    epochs, limit = built.arguments.get("max_epochs"), built.place.time_limit_minutes
    every = getattr(callback, "_every_n_epochs", 0) or 0
    if epochs and 0 < epochs < every:
        yield doubt(
            "checkpoints",
            f"{key}.every_n_epochs",
            f"{key}.every_n_epochs={every} is more than trainer.max_epochs={epochs}, so it never "
            "saves a checkpoint.",
            f"Set every_n_epochs: {epochs} or less",
        )
    interval = getattr(callback, "_train_time_interval", None)
    if limit and interval is not None and interval.total_seconds() >= limit * 60:
        minutes = interval.total_seconds() / 60
        yield doubt(
            "checkpoints",
            f"{key}.train_time_interval",
            f"{key}.train_time_interval of {minutes:g} minutes is not less than the time limit of "
            f"{limit:g} minutes, so it saves no checkpoint in a job.",
            f"train_time_interval: '0:{min(59, max(1, limit / 6)):02.0f}:00', or a longer limit: "
            f"-t {2 * minutes:.0f}",
        )
    longest = _longest_seconds(built)
    if longest and interval is not None and interval.total_seconds() >= longest:
        yield doubt(
            "checkpoints",
            f"{key}.train_time_interval",
            f"{key}.train_time_interval of {interval.total_seconds() / 60:g} minutes is not less "
            f"than trainer.max_time of {longest / 60:g} minutes, so it saves no checkpoint.",
            f"train_time_interval: {longest / 360:.0f} minutes or less, or leave it out",
        )
    try:
        callback.format_checkpoint_name({})
    except (ValueError, KeyError, IndexError) as error:
        yield refusal(
            "checkpoints",
            f"{key}.filename",
            f"{key}.filename={callback.filename!r} cannot be filled in: {error}.",
            "For example: filename: '{epoch}-{val_loss:.3f}'",
        )
    if callback.dirpath:
        yield from check_directory(built, f"{key}.dirpath", str(callback.dirpath))


def _longest_seconds(built: Built) -> float | None:
    """Return how long a Trainer may train, by its ``max_time`` or a timer; None for any time."""
    from lightning.pytorch.callbacks import Timer

    timers = [each for each in built.trainer.callbacks if isinstance(each, Timer)]
    return next(filter(None, (timer.time_remaining() for timer in timers)), None)


def check_directory(built: Built, key: str, directory: str) -> Iterator[Finding]:
    """Check that workers can write to a directory.

    Args:
        built: What the spec names.
        key: The user's key that names the directory.
        directory: Path of the directory, which may not exist yet.
    """
    path = Path(directory).absolute()
    if "://" in directory or path.is_relative_to(built.scratch):
        return
    if built.place.has_queue and is_elsewhere(directory):
        yield unknown("places", f"{key}={directory!r} is not on this machine")
        return
    there = next(each for each in (path, *path.parents) if each.exists())
    is_odd = not there.is_dir() or not is_writable(there)
    if is_odd and built.place.has_queue:
        yield unknown("places", f"{key}={directory!r} cannot be written to from this machine")
    elif is_odd:
        why = "is not a directory" if not there.is_dir() else "cannot be written to"
        yield refusal(
            "places",
            key,
            f"{key}={directory!r}: {there} {why}.",
            f"Leave {key.rpartition('.')[2]} out, and it lies in the run's directory; or name a "
            "directory of your own",
        )
    elif built.place.has_queue and path.is_relative_to("/tmp"):  # noqa: S108 - a name
        yield unknown("places", f"{key}={directory!r}: other nodes may have another /tmp")


def check_resume(built: Built) -> Iterator[Finding]:
    """Check that a checkpoint that a spec starts from fits its model.

    Args:
        built: What the spec names.
    """
    path = built.spec.get("ckpt_path")
    if isinstance(path, (str, Path)) and _is_missing(str(path)):
        if wishes or (built.place.has_queue and is_elsewhere(str(path))):
            yield unknown("checkpoints", f"ckpt_path={path} is not on this machine")
        else:
            what = f"ckpt_path={path}: there is no such file."
            fix = "Name a checkpoint that exists; those here: find . -name '*.ckpt'"
            yield refusal("checkpoints", "ckpt_path", what, fix)
    if path in _OF_FIRST_RUN:
        yield refusal(
            "checkpoints",
            "ckpt_path",
            f"ckpt_path={path!r}: {_OF_FIRST_RUN[path]}",
            "Leave it out: a run resumes from its newest checkpoint, and another one is named by "
            "its path: --ckpt_path=PATH",
        )


def _is_missing(path: str) -> bool:
    is_name = path in (*_OF_FIRST_RUN, "last") or path.startswith("registry")
    return not is_name and "://" not in path and not Path(path).exists()


def check_steps(built: Built, steps: int | None) -> Iterator[Finding]:
    """Check that training has as many steps as lie between two checkpoints.

    Args:
        built: What the spec names.
        steps: Number of optimizer steps of the whole training; None if it is not known.
    """
    for callback in _checkpoint_callbacks(built):
        every = getattr(callback, "_every_n_train_steps", 0) or 0
        if steps and every > steps:
            key = built.key_of(type(callback).__name__, "trainer.callbacks")
            yield doubt(
                "checkpoints",
                f"{key}.every_n_train_steps",
                f"{key}.every_n_train_steps={every} is more than the {steps} steps of training, so "
                "it never saves a checkpoint.",
                f"Set every_n_train_steps: {steps} or less",
            )


def compare_weights(built: Built) -> Iterator[Finding]:
    """Compare the weights in a checkpoint with those of the model, once that has its shape.

    Args:
        built: What the spec names.
    """
    import torch

    path = built.spec.get("ckpt_path")
    if not isinstance(path, str):
        return
    if Path(path).is_dir() and not any(Path(path, name).exists() for name in _OF_SHARDED):
        yield refusal(
            "checkpoints",
            "ckpt_path",
            f"ckpt_path={path} is a directory, and not a sharded checkpoint.",
            f"Name a .ckpt file; those there: find {path} -name '*.ckpt'",
        )
    if not Path(path).is_file() or not getattr(built.model, "strict_loading", True):
        return
    if _loads_itself(built.model):
        what = f"ckpt_path={path}: {type(built.model).__name__} changes what it loads"
        yield unknown("checkpoints", what)
        return
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        saved: Mapping[str, Any] = content["state_dict"]
        done = epochs_done(content)
    except Exception as error:  # noqa: BLE001 - whatever is in the file
        kind = type(error).__name__
        if kind == "UnpicklingError" and "weights_only" in str(error):
            yield unknown("checkpoints", f"ckpt_path={path}: holds more than weights")
            return
        yield refusal(
            "checkpoints",
            "ckpt_path",
            f"ckpt_path={path} is not a checkpoint of Lightning: {kind}.",
            f"Name a .ckpt file that a Trainer has saved; those there: ls {Path(path).parent}",
        )
        return
    if finding := _of_done(built, path, done):
        yield finding
        return
    own = built.model.state_dict()
    odd = [name for name in own if name not in saved or _shape(saved[name]) != _shape(own[name])]
    odd += [name for name in saved if name not in own]
    if odd:
        names = ", ".join(odd[:_SHOWN]) + (", ..." if len(odd) > _SHOWN else "")
        yield refusal(
            "checkpoints",
            "ckpt_path",
            f"ckpt_path={path} does not fit the model: {len(odd)} of its weights are missing or "
            f"have another shape ({names}).",
            "Give the model the arguments with which the checkpoint was trained (config.yaml or "
            "hparams.yaml beside it), or leave out ckpt_path",
        )


def _of_done(built: Built, path: str, done: int) -> Finding | None:
    """Return the refusal of a checkpoint that has been trained as long as the run shall be."""
    most = built.arguments.get("max_epochs")
    if not isinstance(most, int) or not 0 <= most <= done:
        return None
    comes = "Lightning refuses to resume from it" if most < done else "nothing is trained any more"
    return refusal(
        "checkpoints",
        "ckpt_path",
        f"ckpt_path={path} has been trained for {counted(done, 'epoch')}, and trainer.max_epochs="
        f"{most}: {comes}.",
        f"--trainer.max_epochs={2 * max(done, 1)}, or load only its weights in the model",
    )


def _shape(entry: object) -> object:
    """Return the shape of an entry of a state dict; None for what ``get_extra_state`` has added."""
    return getattr(entry, "shape", None)


def _loads_itself(model: Any) -> bool:  # noqa: ANN401 - a LightningModule
    """Whether a model may take weights of other names or shapes than its own."""
    from lightning.pytorch import LightningModule

    kind = type(model)
    if kind.on_load_checkpoint is not LightningModule.on_load_checkpoint:
        return True
    if kind.load_state_dict is not LightningModule.load_state_dict:
        return True
    names = ("load_state_dict", "_load_from_state_dict")
    return any(
        getattr(type(module), name) is not getattr(LightningModule, name)
        for module in model.modules()
        for name in names
        if not type(module).__module__.startswith(_LIBRARIES)
    )
