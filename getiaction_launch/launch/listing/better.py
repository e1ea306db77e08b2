"""By which value of a metric runs are compared, and whether the lowest or the highest is better."""

from collections.abc import Mapping

from getiaction_launch.run.records import Progress

_MORE = ("acc", "accuracy", "reward", "success", "return", "f1", "iou", "score", "map")


def is_lower_better(name: str, modes: Mapping[str, str]) -> bool | None:
    """Return whether lower values of a metric are better; None if neither callbacks nor names say.

    Args:
        name: Name of the metric, such as ``val/loss``.
        modes: What callbacks look for in the metrics that they monitor: ``min`` or ``max``.
    """
    if (mode := modes.get(name)) in {"min", "max"}:
        return mode == "min"
    if "loss" in name or "error" in name:
        return True
    words = name.lower().replace("/", "_").split("_")
    return False if any(word in _MORE for word in words) else None


def judged_value(name: str, progress: Progress) -> float | None:
    """Return the value of a metric by which runs are compared; None if a run has none.

    It is the best one so far if a ``ModelCheckpoint`` keeps track of it, otherwise the last one.

    Args:
        name: Name of the metric, such as ``val/loss``.
        progress: What the worker of rank 0 last reported.
    """
    return progress.best.get(name, progress.metrics.get(name))
