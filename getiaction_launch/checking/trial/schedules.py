"""Schedules of the learning rate, against the steps and epochs that training has."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.finding import Finding, doubt, refusal

_BY_STEP = 'Step it after each batch: {"scheduler": scheduler, "interval": "step"}'
_MOST_VALUES = 1000
"""At how many points of training a schedule is looked at."""
_SMALL = 0.1
"""Share of a schedule's highest rate that counts as never having come there."""


def check_schedules(built: Built, trial: Any, steps: int | None) -> Iterator[Finding]:  # noqa: ANN401 - Lightning's Trainer
    """Check that no schedule ends before training does, nor gets nowhere until then.

    Args:
        built: What the spec names.
        trial: The Trainer that has trained two batches.
        steps: Number of optimizer steps of the whole training; None if it is not known.
    """
    if not steps or not built.model.automatic_optimization:
        return
    epochs = built.trainer.max_epochs
    for config in trial.lr_scheduler_configs:
        yield from _of_end(config, steps, epochs)
        if config.interval == "epoch" and config.frequency == 1 and (epochs or 0) > 0:
            yield from _of_rates(config.scheduler, steps, int(epochs))


def _of_end(config: Any, steps: int, epochs: int | None) -> Iterator[Finding]:  # noqa: ANN401 - Lightning's
    """Find a schedule of a number of steps that is stepped more often, or never so often."""
    total = getattr(config.scheduler, "total_steps", None)
    if not isinstance(total, int):
        return
    by_step, kind = config.interval == "step", type(config.scheduler).__name__
    taken = (steps if by_step else epochs or 0) // config.frequency
    if taken > total:
        when = f" and is stepped after each of {epochs} epochs (interval: epoch)"
        when = f", and training takes {taken} steps of it" if by_step else when
        all_steps = ": self.trainer.estimated_stepping_batches" if by_step else ""
        yield refusal(
            "step",
            "lr_scheduler.total_steps",
            f"{kind} has total_steps={total}{when}: it would fail at the {total + 1}th.",
            f"Set total_steps={taken} or more{all_steps}",
        )
    if not by_step and 0 < (epochs or 0) < total:
        judged = refusal if total == steps > (epochs or 0) else doubt
        yield judged(
            "step",
            "lr_scheduler.interval",
            f"{kind} has total_steps={total} and is stepped once an epoch (interval: epoch), "
            f"{epochs} times in all, so it never gets to its end.",
            _BY_STEP,
        )


def _of_rates(scheduler: Any, steps: int, epochs: int) -> Iterator[Finding]:  # noqa: ANN401 - torch's
    """Find rates that rise with the steps of training, where a schedule counts its epochs."""
    from torch.optim.lr_scheduler import LambdaLR

    if not isinstance(scheduler, LambdaLR):
        return
    with contextlib.suppress(Exception):  # whatever the user's function raises so far out
        here = max(_highest(factor, epochs) for factor in scheduler.lr_lambdas)
        there = max(_highest(factor, steps) for factor in scheduler.lr_lambdas)
        if here > _SMALL * there or there <= 0:
            return
        share = f"at most {here / there:.1%} of what it would come to in {steps} steps"
        judged = refusal if here <= 0 else doubt
        yield judged(
            "step",
            "lr_scheduler.interval",
            f"{type(scheduler).__name__} is stepped once an epoch (interval: epoch), and in "
            f"{_counted(epochs)} the learning rate is {share if here > 0 else 'always 0'}.",
            _BY_STEP,
        )


def _highest(factor: Callable[[int], float], number: int) -> float:
    """Return the highest factor of the learning rate before a number of steps of a schedule."""
    stride = max(1, number // _MOST_VALUES)
    return max(float(factor(at)) for at in (*range(0, number, stride), number - 1))


def _counted(epochs: int) -> str:
    return "the one epoch" if epochs == 1 else f"all {epochs} epochs"
