"""What two ranks that have trained together must have alike, and what each must have of its own."""

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.splits import check_splits
from getiaction_launch.checking.finding import Finding, doubt, ok, refusal
from getiaction_launch.checking.loading.batches import sharing
from getiaction_launch.checking.loading.held_out import divided_by, leaking
from getiaction_launch.checking.loading.loaders import Loaders
from getiaction_launch.checking.loading.subsets import indices_of
from getiaction_launch.errors import counted

_TALKS = re.compile(r"all_?gather|all_?reduce|reduce_scatter|\bbroadcast")
"""What ranks use that compute one loss of the same batch together."""
_MOST_INDICES = 10_000
"""Indices of a split that are compared."""


def seen_by(built: Built, loaders: Loaders) -> dict[str, Any]:
    """Return what a rank's model and data are compared by.

    Args:
        built: What the ranks have trained.
        loaders: The loaders of this rank.
    """
    from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler

    loader = loaders.training
    is_drawn = any(check_splits(built))
    dataset = getattr(loader, "dataset", None)
    is_divided = isinstance(getattr(loader, "sampler", None), (RandomSampler, SequentialSampler))
    is_divided = is_divided and sharing(built) > 1
    ignored = getattr(built.model, "_ddp_params_and_buffers_to_ignore", ())
    weights = {
        # As text, since NaN does not equal itself.
        name: repr(float(each.detach().double().sum()))
        for name, each in built.model.named_parameters()
        if each.requires_grad and name not in ignored
    }
    return {
        "is_stream": isinstance(dataset, IterableDataset),
        "split": indices_of(dataset, _MOST_INDICES) if is_divided else [],
        "divided": divided_by(loaders) if is_drawn else {"trained": [], "held_out": []},
        "weights": weights,
    }


def compared(built: Built, mine: dict[str, Any], theirs: dict[str, Any]) -> Finding:
    """Return what two ranks that have come to the end have done otherwise, or alike.

    Args:
        built: What they have trained.
        mine: What rank 0 has come to.
        theirs: What rank 1 has come to.
    """
    counts = mine["batches"], theirs["batches"]
    is_read = None not in counts and not 0 < _last_batch(built) <= min(counts)
    if is_read and counts[0] != counts[1]:
        return of_counts(built, *counts)
    if found := _of_division(built, mine, theirs):
        return found
    if mine["count"] == theirs["count"]:
        for name, value in mine["weights"].items():
            if theirs["weights"].get(name, value) != value:
                return _of_weights(built, name, mine["count"])
    if mine["seen"] == theirs["seen"] and len({*mine["seen"]} - {None}) > 1:
        losses = [[str(each).lower() for each in one["losses"]] for one in (mine, theirs)]
        is_same = losses[0] == losses[1] and len({*losses[0]} - {"none"}) > 1
        judged = refusal if is_same and not _talks(built.model) else doubt
        if mine["is_stream"]:
            return _of_stream(built, judged)
        if mine["is_whole_epoch"] and sharing(built) == 1:
            return judged(
                "ranks",
                "trainer.use_distributed_sampler",
                "trainer.use_distributed_sampler=false: two ranks that were tried have trained on "
                "the same batches, as nothing else divides the samples.",
                "--trainer.use_distributed_sampler=true, so that Lightning divides them; or give "
                "the loader a DistributedSampler",
            )
    return ok("ranks", "two ranks have trained together")


def _of_division(built: Built, mine: dict[str, Any], theirs: dict[str, Any]) -> Finding | None:
    if mine["split"] and theirs["split"] and mine["split"] != theirs["split"]:
        return _of_split(built, {*mine["split"]}, {*theirs["split"]})
    leaks = leaking(mine["divided"], theirs["divided"])
    return _of_draw(built, leaks) if leaks else None


def _of_stream(built: Built, judged: Callable[..., Finding]) -> Finding:
    key = _key_of_data(built)
    return judged(
        "ranks",
        key,
        f"{key}: two ranks that were tried have read the same batches, as nothing divides what "
        "an IterableDataset yields.",
        "In its __iter__: itertools.islice(samples, rank, None, world_size), with the rank and "
        "the world size of torch.distributed",
    )


def _talks(model: object) -> bool:
    """Whether the file of a model has the words of ranks that compute one loss together."""
    try:
        return bool(_TALKS.search(inspect.getsource(inspect.getmodule(type(model)) or type(model))))
    except (OSError, TypeError):
        return True


def of_counts(built: Built, first: int, second: int, *, is_open: bool = False) -> Finding:
    """Return the refusal of ranks that have other numbers of batches.

    Args:
        built: What the two ranks train.
        first: Training batches of rank 0 in an epoch.
        second: Those of rank 1.
        is_open: Whether the larger number may be larger still.
    """
    key, counts = _key_of_data(built), (first, second)
    words = [f"at least {each}" if is_open and each == max(counts) else each for each in counts]
    return refusal(
        "ranks",
        key,
        f"{key}: rank 0 has {words[0]} training batches per epoch and rank 1 has {words[1]}, "
        "so one of them waits at the end of the epoch for gradients that never come.",
        "Give each rank as many samples as the others, as DistributedSampler does; what is "
        "drawn at random needs a seed: seed_everything(0). Or --trainer.limit_train_batches="
        f"{min(counts)}",
    )


def _of_split(built: Built, mine: set[int], theirs: set[int]) -> Finding:
    key = _key_of_data(built)
    if not mine & theirs:
        return doubt(
            "ranks",
            key,
            f"{key}: each rank has samples of its own, of which Lightning then gives it a part, so "
            "most of them are not trained in an epoch.",
            "--trainer.use_distributed_sampler=false",
        )
    return refusal(
        "ranks",
        key,
        f"{key}: the split of the data is another one on each rank, so that a rank trains on what "
        "another holds out.",
        "Split with a seed: random_split(data, lengths, torch.Generator().manual_seed(0)), or "
        "numpy.random.default_rng(0), or seed_everything(0) in front",
    )


def _of_draw(built: Built, leaks: int) -> Finding:
    drawn = next(iter(check_splits(built)))
    return replace(
        drawn,
        check="ranks",
        verdict="refused",
        evidence=f"{drawn.evidence} Of two ranks that were tried, one has trained on "
        f"{counted(leaks, 'sample')} that the other one holds out.",
    )


def _of_weights(built: Built, name: str, number: int) -> Finding:
    finetuning = [
        each for each in built.trainer.callbacks if hasattr(each, "unfreeze_and_add_param_group")
    ]
    key = type(finetuning[0]).__name__ if finetuning else type(built.model).__name__
    fix = (
        "Average the gradients of each step: call the model as Lightning does, not parts of it in "
        "another process group, and draw what changes weights with the same seed on each rank"
    )
    if finetuning:
        fix = (
            "Train them from the beginning with a lower learning rate; or freeze them in a "
            "callback's on_train_start, with --trainer.strategy=ddp_find_unused_parameters_true"
        )
    return refusal(
        "ranks",
        key,
        f"{key}: {name} has other values on each rank after {_batches(number)}, so its "
        "gradients are not averaged. DDP averages those of the weights that require gradients when "
        "training begins.",
        fix,
    )


def _batches(number: int) -> str:
    return "1 batch" if number == 1 else f"{number} batches"


def _key_of_data(built: Built) -> str:
    if built.has_loaders:
        return str(built.script)
    owner = built.data if built.data is not None else built.model
    return built.key_of(type(owner).__name__, "data")


def _last_batch(built: Built) -> int:
    """Return the batch with which training ends, as a number of them; -1 if epochs decide."""
    steps = int(built.arguments.get("max_steps") or -1)
    return steps * int(built.arguments.get("accumulate_grad_batches") or 1)
