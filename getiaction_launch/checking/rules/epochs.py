"""How much a Trainer would train and validate: limits that leave nothing of it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from getiaction_launch.checking.finding import Finding, doubt, ok, refusal

_LEAST = {
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": -1,
    "log_every_n_steps": 0,
    "reload_dataloaders_every_n_epochs": 0,
}
"""The least value of each argument that counts something."""
_LARGEST_SEED = 2**32 - 1
_TIME = re.compile(r"\d+:\d\d:\d\d:\d\d")
_A_DAY = "--trainer.max_time=01:00:00:00 (a day)"
_NOTHING = {
    "max_epochs": "--trainer.max_epochs=100",
    "max_steps": "--trainer.max_steps=10000, or leave it out",
    "limit_train_batches": "Leave it out, or give a share or a number: "
    "--trainer.limit_train_batches=1.0",
}
"""Arguments with which 0 trains nothing, and what to write instead."""


def check_extent(spec: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the arguments of the Trainer that say how long it trains, before anything is built.

    Args:
        spec: The spec as its parser understands it.
    """
    arguments = spec.get("trainer") or {}
    found = [*_refusals(arguments), *_of_seed(spec.get("seed_everything"))]
    yield from found
    if not found:
        yield ok("trainer", _extent(arguments))


def _of_seed(seed: object) -> Iterator[Finding]:
    if isinstance(seed, int) and not 0 <= seed <= _LARGEST_SEED:
        yield refusal(
            "trainer",
            "seed_everything",
            f"seed_everything={seed} must be from 0 to {_LARGEST_SEED}.",
            "--seed_everything=1",
        )


def _refusals(arguments: Mapping[str, Any]) -> Iterator[Finding]:
    yield from _of_texts(arguments)
    for name, least in _LEAST.items():
        value = arguments.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            yield refusal(
                "trainer",
                f"trainer.{name}",
                f"trainer.{name}={value} must be {least} or more.",
                f"--trainer.{name}={max(1, least)}, or leave it out",
            )
    for name, fix in _NOTHING.items():
        value = arguments.get(name)
        if value is not None and not isinstance(value, bool) and value == 0:
            what = f"trainer.{name}={value} trains nothing: the run would succeed at once."
            yield refusal("trainer", f"trainer.{name}", what, fix)
    time = arguments.get("max_time")
    if isinstance(time, str) and not time.replace(":", "").strip("0"):
        what = f"trainer.max_time={time!r} trains nothing: the run would succeed at once."
        yield refusal("trainer", "trainer.max_time", what, _A_DAY)
    elif isinstance(time, str) and not time.startswith("{") and not _TIME.fullmatch(time.strip()):
        what = f"trainer.max_time={time!r} is not a time: DAYS:HOURS:MINUTES:SECONDS."
        yield refusal("trainer", "trainer.max_time", what, _A_DAY)
    for unit in ("epochs", "steps"):
        fewest, most = arguments.get(f"min_{unit}"), arguments.get(f"max_{unit}")
        if isinstance(most, int) and isinstance(fewest, int) and 0 < most < fewest:
            yield doubt(
                "trainer",
                f"trainer.min_{unit}",
                f"trainer.min_{unit}={fewest} is more than trainer.max_{unit}={most}.",
                f"--trainer.max_{unit}={fewest}, or leave out min_{unit}",
            )
    clip = arguments.get("gradient_clip_val")
    if clip is not None and clip < 0:
        yield refusal(
            "trainer",
            "trainer.gradient_clip_val",
            f"trainer.gradient_clip_val={clip} must be 0 or more.",
            "--trainer.gradient_clip_val=1.0, or leave it out",
        )
    yield from _of_intervals(arguments)


def _of_texts(arguments: Mapping[str, Any]) -> Iterator[Finding]:
    """Find numbers that a script has read as text: a spec has them converted."""
    for name in _LEAST:
        value = arguments.get(name)
        if isinstance(value, str):
            what = f"trainer.{name}={value!r} is text, and not a number."
            fix = f"Convert it: {name}=int({value!r}); with argparse: add_argument(..., type=int)"
            yield refusal("trainer", f"trainer.{name}", what, fix)


def _of_intervals(arguments: Mapping[str, Any]) -> Iterator[Finding]:
    if batches := arguments.get("fast_dev_run"):
        only = f"{int(batches)} batches" if batches > 1 else "one batch"
        yield doubt(
            "trainer",
            "trainer.fast_dev_run",
            f"trainer.fast_dev_run={batches} trains only {only} and keeps no checkpoint.",
            "Leave it out for a real run: --trainer.fast_dev_run=false",
        )
    interval = arguments.get("val_check_interval")
    if interval is not None and not isinstance(interval, (str, bool, Mapping)) and interval == 0:
        yield refusal(
            "trainer",
            "trainer.val_check_interval",
            "trainer.val_check_interval=0 never validates.",
            "Leave it out to validate after each epoch, or: --trainer.limit_val_batches=0",
        )
    if arguments.get("check_val_every_n_epoch", 1) is None and interval is None:
        yield refusal(
            "trainer",
            "trainer.check_val_every_n_epoch",
            "trainer.check_val_every_n_epoch=null needs a val_check_interval in batches.",
            "--trainer.val_check_interval=1000",
        )


def check_validation(
    arguments: Mapping[str, Any], *, validation: int | None, batches: int | None
) -> Iterator[Finding]:
    """Check that validation data is used, and that intervals fit into an epoch.

    Args:
        arguments: The Trainer's arguments by name.
        validation: Number of validation batches; None if it is not known.
        batches: Number of training batches of an epoch on each rank; None if it is not known.
    """
    interval: Any = arguments.get("val_check_interval")
    every = arguments.get("check_val_every_n_epoch", 1)
    is_count = isinstance(interval, int) and not isinstance(interval, bool)
    if batches and is_count and every is not None and interval > batches:
        yield refusal(
            "data",
            "trainer.val_check_interval",
            f"trainer.val_check_interval={interval} is more than the {batches} training batches "
            "of an epoch on each rank.",
            f"--trainer.val_check_interval={batches}, or count over epochs: "
            "--trainer.check_val_every_n_epoch=null",
        )
        return
    every_step = arguments.get("accumulate_grad_batches") or 1
    if batches and every_step > batches:
        yield doubt(
            "data",
            "trainer.accumulate_grad_batches",
            f"trainer.accumulate_grad_batches={every_step} is more than the {batches} training "
            "batches of an epoch on each rank, so an epoch has a single step.",
            f"--trainer.accumulate_grad_batches={max(1, batches // 2)} or less",
        )
    epochs, steps = _epochs(arguments, batches), int(arguments.get("max_steps", -1))
    share = arguments.get("limit_val_batches")
    if not validation or share == 0:
        return
    if batches and every is not None and not is_count and steps > 0 and epochs == 0:
        yield doubt(
            "data",
            "trainer.max_steps",
            f"trainer.max_steps={steps} ends before the first validation, which is after "
            f"{batches} batches.",
            "To validate earlier: --trainer.val_check_interval=N, in batches",
        )
    if isinstance(share, float) and share * validation < 1 and not arguments.get("overfit_batches"):
        yield refusal(
            "data",
            "trainer.limit_val_batches",
            f"trainer.limit_val_batches={share} of {validation} batches is less than one.",
            "--trainer.limit_val_batches=1 for one batch, or a larger share",
        )
    if every is not None and epochs and every > epochs:
        yield doubt(
            "data",
            "trainer.check_val_every_n_epoch",
            f"trainer.check_val_every_n_epoch={every} is more than the {epochs} epochs of "
            "training, so the validation data is never used.",
            f"--trainer.check_val_every_n_epoch={epochs}",
        )
    taken = steps * arguments.get("accumulate_grad_batches", 1) if steps > 0 else None
    total = min(filter(None, (taken, epochs * batches if epochs and batches else None)), default=0)
    if every is None and is_count and total and interval > total:
        yield doubt(
            "data",
            "trainer.val_check_interval",
            f"trainer.val_check_interval={interval} is more than the {total} batches of the whole "
            "training, so the validation data is never used.",
            f"--trainer.val_check_interval={total}",
        )


def count_steps(arguments: Mapping[str, Any], batches: int | None) -> int | None:
    """Return how many optimizer steps the whole training has; None if it is not known.

    Args:
        arguments: The Trainer's arguments by name.
        batches: Number of training batches of an epoch on each rank; None if it is not known.
    """
    steps = arguments.get("max_steps", -1)
    epochs = arguments.get("max_epochs")
    every = arguments.get("accumulate_grad_batches") or 1
    by_epochs = -(-batches // every) * epochs if batches and epochs and epochs > 0 else None
    found = [number for number in (steps if steps > 0 else None, by_epochs) if number]
    return min(found, default=None)


def _epochs(arguments: Mapping[str, Any], batches: int | None) -> int | None:
    """Return how many epochs are begun; None if that is not known."""
    epochs: int | None = arguments.get("max_epochs")
    steps = int(arguments.get("max_steps", -1))
    if steps > 0 and batches:
        every = int(arguments.get("accumulate_grad_batches") or 1)
        whole = steps // -(-batches // every)  # validation needs the end of an epoch
        return min(epochs, whole) if epochs and epochs > 0 else whole
    return epochs if epochs and epochs > 0 else None


def _extent(arguments: Mapping[str, Any]) -> str:
    names = ("max_epochs", "max_steps", "max_time", "limit_train_batches", "limit_val_batches")
    shown = [f"{name}={arguments[name]}" for name in names if arguments.get(name) not in (None, -1)]
    return ", ".join(shown) or "no limit: it trains 1000 epochs"
