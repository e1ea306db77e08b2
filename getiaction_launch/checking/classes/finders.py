"""Callbacks that search a batch size or a learning rate, where Lightning refuses to."""

from collections.abc import Iterator
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.errors import counted


def check_finders(built: Built) -> Iterator[Finding]:
    """Check the finders among the callbacks, also those that a Tuner has added for a search.

    Args:
        built: What the spec names.
    """
    from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

    for callback in built.trainer.callbacks:
        if isinstance(callback, BatchSizeFinder):
            found = _of_batch_size(built, callback)
        elif isinstance(callback, LearningRateFinder):
            given = getattr(callback, "_attr_name", "")
            found = _of_attribute(built, callback, [given] if given else ["lr", "learning_rate"])
        else:
            continue
        yield from found


def _of_batch_size(built: Built, finder: Any) -> Iterator[Finding]:  # noqa: ANN401 - Lightning's
    from lightning.pytorch.callbacks import BatchSizeFinder
    from lightning.pytorch.strategies import ParallelStrategy

    kind = type(finder).__name__
    if type(finder).setup is not BatchSizeFinder.setup:
        return  # which is where Lightning refuses
    key = built.key_of(kind, kind)
    shown = kind if key == kind else f"{key}: {kind}"
    if isinstance(built.trainer.strategy, ParallelStrategy):
        ranks = counted(built.plan.topology.world_size, "rank")
        yield refusal(
            "callbacks",
            key,
            f"{shown} is not supported with distributed strategies, and this run trains {ranks} by "
            f"{type(built.trainer.strategy).__name__}: Lightning would end it at once.",
            f"Remove {kind}, and give the batch size that it finds in a run on one device",
        )
    elif built.has_loaders:
        yield refusal(
            "callbacks",
            key,
            f"{shown} cannot change the batch size of loaders that Trainer.fit is given.",
            "Give it a datamodule that makes them of its batch_size: fit(model, datamodule=data)",
        )
    else:
        yield from _of_attribute(built, finder, [getattr(finder, "_batch_arg_name", "batch_size")])


def _of_attribute(built: Built, finder: object, names: list[str]) -> Iterator[Finding]:
    """Find a callback that searches a value for an attribute which nobody has."""
    owners: list[object] = [built.model, *([built.data] if built.data is not None else [])]
    if any(_has_attribute(owner, name) for owner in owners for name in names):
        return
    kind = type(finder).__name__
    shown = " or ".join(type(each).__name__ for each in owners)
    yield refusal(
        "callbacks",
        kind,
        f"{kind} looks for {' or '.join(names)} in {shown}, which has neither attribute "
        "nor hyperparameter of this name.",
        f"Remove {kind}, or name the attribute that it shall set",
    )


def _has_attribute(owner: object, name: str) -> bool:
    return hasattr(owner, name) or name in (getattr(owner, "hparams", None) or {})
