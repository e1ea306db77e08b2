"""Monitors: the metrics that callbacks and schedulers wait for must be logged."""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from getiaction_launch.checking.built import Built, keys_of_classes
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal
from getiaction_launch.errors import nearest_first

_PLACE = re.compile(r"\{([\w./-]+)")
_ALWAYS = {"epoch", "step"}


def check_monitors(
    built: Built,
    trial: Any,  # noqa: ANN401 - Lightning's Trainer
    *,
    has_validation: bool,
) -> Iterator[Finding]:
    """Compare what is monitored with what a trial has logged.

    Args:
        built: What the spec names.
        trial: The Trainer that has trained and validated one batch.
        has_validation: Whether the run validates at all.
    """
    logged = set(trial.callback_metrics)
    found, monitored = [], []
    for key, monitor, is_needed in _monitors(built, trial):
        monitored.append(f"{key}={monitor}")
        if monitor not in logged | _ALWAYS:
            finding = _refusal(key, monitor, logged, has_validation=has_validation)
            found.append(finding if is_needed else replace(finding, verdict="doubtful"))
    yield from found
    yield from _of_names(built, logged)
    if not found:
        shown = ", ".join(sorted(logged)) or "nothing"
        watched = f"{', '.join(monitored)}; " if monitored else ""
        yield ok("monitors", f"{watched}logged: {shown}")


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


def _refusal(key: str, monitor: str, logged: Collection[str], *, has_validation: bool) -> Finding:
    what = f"{key}={monitor!r}: no metric of this name is logged."
    fix = f"{nearest_first(monitor, logged)} Set {key.rpartition('.')[2]} to one of them."
    if not logged:
        fix = f"Log it in training_step or validation_step: self.log({monitor!r}, value)"
    elif not has_validation and "val" in monitor.lower():
        what = f"{key}={monitor!r}: this run does not validate, so the metric is never logged."
        fix = (
            "Hold out data, for example: --data.val_split=0.1, and do not set "
            f"trainer.limit_val_batches=0; or monitor one of: {', '.join(sorted(logged))}"
        )
    return refusal("monitors", key, what, fix)


def _monitors(built: Built, trial: Any) -> Iterator[tuple[str, str, bool]]:  # noqa: ANN401
    """Yield the key and the name of each metric, and whether a run fails without it."""
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

    keys = keys_of_classes(built.spec)
    callbacks = [] if built.arguments.get("fast_dev_run") else built.trainer.callbacks
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if isinstance(monitor, str):
            kind = type(callback)
            name = f"{kind.__module__}.{kind.__qualname__}"
            ends = (name, f".{kind.__name__}")
            key = next((keys[path] for path in keys if path.endswith(ends)), "trainer.callbacks")
            is_own = isinstance(callback, (EarlyStopping, ModelCheckpoint))
            yield f"{key}.monitor", monitor, is_own and getattr(callback, "strict", True)
    for config in trial.lr_scheduler_configs:
        if config.reduce_on_plateau and isinstance(config.monitor, str) and config.strict:
            key = "lr_scheduler" if built.spec.get("lr_scheduler") else "configure_optimizers"
            yield f"{key}.monitor", config.monitor, True


def uncheckable(built: Built) -> str:
    """Return the metrics that are monitored, if no trial can say whether they are logged.

    Args:
        built: What the spec names.
    """
    monitors = [getattr(callback, "monitor", None) for callback in built.trainer.callbacks]
    return ", ".join(monitor for monitor in monitors if isinstance(monitor, str))
