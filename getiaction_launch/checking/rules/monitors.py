"""Monitors: the metrics that callbacks and schedulers wait for must be logged."""

import difflib
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal
from getiaction_launch.checking.rules.logged import (
    are_of_data,
    are_shown,
    is_part,
    is_written,
    names_of,
)
from getiaction_launch.errors import nearest_first

_PLACE = re.compile(r"\{([\w./-]+)")
_LOADER = re.compile(r"/dataloader_idx_\d+")
"""What Lightning adds to a name that several validation loaders log."""
_ALWAYS = {"epoch", "step"}
_SEPARATORS = str.maketrans("/-.", "___")
_NEAR = 0.8
"""Likeness of two names from which one is taken for a slip of the other."""
_OF_VALIDATION = {"val", "valid", "validation"}
_WORST = {
    "max": {"loss", "error", "mse", "mae", "l1", "rmse"},
    "min": {"acc", "accuracy", "success", "reward", "f1"},
}
"""Words of metrics of which a mode chooses the worst."""
_PLAIN = {"val", "valid", "validation", "train", "epoch", "step", "total", "mean"}
"""Words beside them that do not turn a metric into its opposite."""
_SILENT = ("getiaction.train.",)
"""Modules with callbacks that log nothing."""
_STEADY = ("getiaction.policies.",)
"""Modules with models that log the same in each epoch."""
_OF_LIGHTNING = ("lightning.", "pytorch_lightning.")
_STAGE = re.compile(r"^(train|val|valid|validation)[/._-]|_(step|epoch)$")


def check_monitors(
    built: Built,
    trial: Any,  # noqa: ANN401 - Lightning's Trainer
    *,
    has_validation: bool,
) -> Iterator[Finding]:
    """Compare what is monitored with what a trial has logged.

    Args:
        built: What the spec names.
        trial: The Trainer that has trained and validated two batches.
        has_validation: Whether the run validates at all.
    """
    logged = set(trial.callback_metrics)
    found: list[Finding] = []
    monitored = []
    found += _of_too_early(built, has_validation=has_validation)
    found += _of_plateaus(built, trial, has_validation=has_validation)
    for key, monitor, is_needed in _monitors(built, trial, has_validation=has_validation):
        monitored.append(f"{key}={monitor}")
        if monitor not in logged | _ALWAYS:
            finding = _refusal(key, monitor, logged, has_validation=has_validation)
            is_sure = is_needed and _is_slip(built, monitor, logged, has_validation=has_validation)
            found.append(finding if is_sure else replace(finding, verdict="doubtful"))
    yield from found
    yield from _of_names(built, logged)
    yield from _of_modes(built)
    if not found:
        shown = ", ".join(sorted(logged)) or "nothing"
        watched = f"{', '.join(monitored)}; " if monitored else ""
        yield ok("monitors", f"{watched}logged: {shown}")


def _is_slip(built: Built, monitor: str, logged: Collection[str], *, has_validation: bool) -> bool:
    """Whether no later batch or epoch will log a metric that the trial has not logged.

    It is one if another name for it is logged, and the classes of the run do not have this one.
    """
    callbacks = built.trainer.callbacks
    if not has_validation and _is_of_validation(monitor):
        return not is_written(monitor, callbacks)
    if any(_LOADER.sub("", name) == monitor for name in logged):
        return True
    others = [each for each in callbacks if not type(each).__module__.startswith(_SILENT)]
    names = names_of([built.model, *others])
    if names is not None and monitor.removesuffix("_step").removesuffix("_epoch") not in names:
        return True
    if _has_shown_all(built.model, others, monitor):
        return True
    logged = {*logged, *(f"{name}{end}" for name in logged for end in ("_step", "_epoch"))}
    plain = {name.translate(_SEPARATORS) for name in logged}
    near = difflib.get_close_matches(monitor.translate(_SEPARATORS), plain, n=1, cutoff=_NEAR)
    if not near or are_of_data([built.model, *others]):
        return False
    return not is_written(monitor, [built.model, *callbacks])


def _has_shown_all(model: object, callbacks: list[Any], monitor: str) -> bool:
    """Whether a trial has seen every metric that is ever logged, under names that are made up."""
    own = [each for each in callbacks if not type(each).__module__.startswith(_OF_LIGHTNING)]
    if type(model).__module__.startswith(_STEADY) and not own:
        return True
    words = [word for word in re.split(r"[\W\d_]+", _STAGE.sub("", monitor)) if word]
    are_seen = are_shown([model]) and (not own or are_shown(own))
    return are_seen and not any(is_part(word, [model, *own]) for word in words)


def _of_too_early(built: Built, *, has_validation: bool) -> Iterator[Finding]:
    """Find early stopping that looks for a metric before it was ever logged."""
    from lightning.pytorch.callbacks import EarlyStopping

    every = built.arguments.get("check_val_every_n_epoch") or 1
    for callback in built.trainer.callbacks:
        if not isinstance(callback, EarlyStopping) or not callback.strict or every <= 1:
            continue
        is_early = getattr(callback, "_check_on_train_epoch_end", None) is True
        if is_early and has_validation and _is_of_validation(callback.monitor):
            key = built.key_of(type(callback).__name__, "trainer.callbacks")
            yield refusal(
                "monitors",
                f"{key}.check_on_train_epoch_end",
                f"{key}.check_on_train_epoch_end=True looks for {callback.monitor!r} after the "
                f"first epoch, and trainer.check_val_every_n_epoch={every} logs it later.",
                "Leave check_on_train_epoch_end out, or validate after each epoch: "
                "--trainer.check_val_every_n_epoch=1",
            )


def _of_plateaus(
    built: Built,
    trial: Any,  # noqa: ANN401 - Lightning's Trainer
    *,
    has_validation: bool,
) -> Iterator[Finding]:
    """Find schedules that step on a metric of validation before the first one."""
    every = built.arguments.get("check_val_every_n_epoch") or 1
    for config in trial.lr_scheduler_configs:
        is_early = config.reduce_on_plateau and config.interval == "epoch" and config.strict
        if not is_early or config.frequency >= every or not has_validation:
            continue
        monitor = str(config.monitor)
        if _is_of_validation(monitor) and built.model.automatic_optimization:
            key = "lr_scheduler" if built.spec.get("lr_scheduler") else "configure_optimizers"
            yield refusal(
                "monitors",
                f"{key}.monitor",
                f"{key}.monitor={monitor!r} is looked for after epoch {config.frequency}, and "
                f"trainer.check_val_every_n_epoch={every} logs it later.",
                f"Step when validation has run: frequency: {every}, beside monitor; or "
                "validate after each epoch: --trainer.check_val_every_n_epoch=1",
            )


def _is_of_validation(monitor: str) -> bool:
    return not _OF_VALIDATION.isdisjoint(_words_of(monitor))


def _words_of(monitor: str) -> set[str]:
    return {*re.split(r"[/._-]", monitor.lower())}


def _of_modes(built: Built) -> Iterator[Finding]:
    """Find a mode that keeps the worst: the largest loss, or the lowest success rate."""
    from lightning.pytorch.callbacks import EarlyStopping

    for callback in built.trainer.callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if not isinstance(monitor, str) or mode not in _WORST:
            continue
        if _WORST[mode] & _words_of(monitor):
            key = built.key_of(type(callback).__name__, "trainer.callbacks")
            other = "min" if mode == "max" else "max"
            what = f"{key}.mode={mode} takes the worst value of {monitor!r} for the best."
            finding = doubt("monitors", f"{key}.mode", what, f"Set mode: {other}")
            is_plain = _words_of(monitor) <= _PLAIN | _WORST[mode]
            if isinstance(callback, EarlyStopping) and is_plain:
                what = f"{what} It stops training {callback.patience + 1} checks after the start."
                finding = refusal("monitors", f"{key}.mode", what, f"Set mode: {other}")
            yield finding


def _of_names(built: Built, logged: Collection[str]) -> Iterator[Finding]:
    """Find metrics in the names of checkpoints that nobody logs: Lightning writes 0 for them."""
    for callback in built.trainer.callbacks:
        name = getattr(callback, "filename", None)
        found = _PLACE.findall(name) if isinstance(name, str) else []
        odd = [each for each in found if each not in {*logged, *_ALWAYS}]
        if odd:
            yield doubt(
                "monitors",
                "trainer.callbacks.filename",
                f"filename={name!r}: {odd[0]} is not logged, so each name will have 0 for it.",
                nearest_first(odd[0], logged),
            )
        parted = [each for each in found if "/" in each]
        if parted and getattr(callback, "auto_insert_metric_name", True):
            yield doubt(
                "monitors",
                "trainer.callbacks.filename",
                f"filename={name!r}: Lightning writes the name of {parted[0]} into it, whose slash "
                "makes a directory for each checkpoint.",
                "Set auto_insert_metric_name: false, and write names into filename yourself",
            )


def _refusal(key: str, monitor: str, logged: Collection[str], *, has_validation: bool) -> Finding:
    what = f"{key}={monitor!r}: no metric of this name is logged in the first batches."
    fix = f"{nearest_first(monitor, logged)} Set {key.rpartition('.')[2]} to one of them."
    if of_loaders := sorted(name for name in logged if _LOADER.sub("", name) == monitor):
        fix = f"With several validation loaders its name is one of: {', '.join(of_loaders)}"
    elif not logged:
        fix = f"Log it in training_step or validation_step: self.log({monitor!r}, value)"
    elif not has_validation and _is_of_validation(monitor):
        what = f"{key}={monitor!r}: this run does not validate, so the metric is never logged."
        fix = (
            "Hold out data, for example: --data.val_split=0.1, and do not set "
            f"trainer.limit_val_batches=0; or monitor one of: {', '.join(sorted(logged))}"
        )
    return refusal("monitors", key, what, fix)


def _monitors(
    built: Built,
    trial: Any,  # noqa: ANN401 - Lightning's Trainer
    *,
    has_validation: bool,
) -> Iterator[tuple[str, str, bool]]:
    """Yield the key and the name of each metric, and whether a run fails without it."""
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    callbacks = [] if built.arguments.get("fast_dev_run") else built.trainer.callbacks
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str):
            key = built.key_of(type(callback).__name__, "trainer.callbacks")
            is_needed = False
            if isinstance(callback, EarlyStopping):
                is_needed = callback.strict and (has_validation or _ends_epochs(built, callback))
            elif isinstance(callback, ModelCheckpoint):  # without a validation it only warns
                is_needed = has_validation and callback.save_top_k != 0
            yield f"{key}.monitor", monitor, is_needed
    for config in trial.lr_scheduler_configs:
        if config.reduce_on_plateau and isinstance(config.monitor, str) and config.strict:
            key = "lr_scheduler" if built.spec.get("lr_scheduler") else "configure_optimizers"
            yield f"{key}.monitor", config.monitor, built.model.automatic_optimization


def _ends_epochs(built: Built, stopping: Any) -> bool:  # noqa: ANN401 - Lightning's EarlyStopping
    """Whether early stopping looks at its metric after an epoch, also without a validation."""
    chosen = getattr(stopping, "_check_on_train_epoch_end", None)
    if chosen is not None:
        return bool(chosen)
    trainer = built.trainer
    return bool(trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1)


def uncheckable(built: Built) -> str:
    """Return the metrics that are monitored, if no trial can say whether they are logged.

    Args:
        built: What the spec names.
    """
    monitors = [getattr(callback, "monitor", None) for callback in built.trainer.callbacks]
    return ", ".join(monitor for monitor in monitors if isinstance(monitor, str))
