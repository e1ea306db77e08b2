"""Which of a run's metrics stands for the run where there is room for one.

A sweep is judged by this metric, so it must be the one that the user looks at: what a callback or a
scheduler monitors, otherwise the loss, and validation's before training's.
"""

import re

from getiaction_launch.run.records import Progress

LOSS = "loss"
"""Name of the training loss in :attr:`~getiaction_launch.run.records.Progress.not_finite`."""
_VALIDATION = ("val", "valid", "validation", "eval", "evaluation", "dev")
_TRAINING = ("train", "training")


def shown_metric(progress: Progress) -> str | None:
    """Return the name of the metric that stands for the run; None if it has logged none.

    The first of these that has a value: what the user's ``ModelCheckpoint``, ``EarlyStopping`` or
    learning-rate scheduler monitors, ``val/loss``, ``train/loss``, ``loss``, any other loss, any
    other metric. Validation and training have several common spellings, such as ``val_loss``.

    Args:
        progress: What the worker of rank 0 last reported.
    """
    for name in progress.monitored:
        if name in progress.metrics:
            return name
    return min(progress.metrics, key=_rank, default=None)


def _rank(name: str) -> tuple[int, bool, str]:
    parts = re.split(r"[/_.\-: ]+", name.lower())
    is_step = parts[-1] == "step"
    if parts[-1] in {"step", "epoch"}:
        parts.pop()
    if "dataloader" in parts:  # Lightning adds dataloader_idx_N where there are several
        del parts[parts.index("dataloader") :]
    words = set(parts)
    kinds = (
        LOSS in words and len(words) == 2 and not words.isdisjoint(_VALIDATION),  # noqa: PLR2004 - and nothing else
        LOSS in words and len(words) == 2 and not words.isdisjoint(_TRAINING),  # noqa: PLR2004 - as above
        words == {LOSS},
        LOSS in name.lower() and not words.isdisjoint(_VALIDATION),
        LOSS in name.lower(),
        True,
    )
    return kinds.index(True), is_step, name


def warnings(progress: Progress) -> list[str]:
    """Say which of the training loss and the shown metric is not finite, and since which step."""
    names = {shown_metric(progress): shown_metric(progress), LOSS: "the loss"}
    return [
        f"{title} is not finite (NaN or infinite) since step {progress.not_finite[name]}"
        for name, title in reversed(names.items())
        if name in progress.not_finite
    ]
