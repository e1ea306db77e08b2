"""What two ranks have after as many steps, by which it shows whether they train one model."""

import re
from typing import Any

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.plain.loop import STEPS, Loop
from getiaction_launch.checking.source.source import Source
from getiaction_launch.checking.trial.batches import hash_of

_DIVIDES_MODEL = re.compile(
    r"fsdp|fully_?shard|dtensor|zeroredundancy|pipelin|tensor_?parallel|deepspeed", re.IGNORECASE
)
"""How source says that each rank has another part of the model."""
_TALKS = re.compile(r"all_reduce|all_gather|broadcast|reduce_scatter|average|\bsend\(|hook")
"""How source says that it has the ranks agree in a way of its own."""
_JOINS = re.compile(r"\bJoin\b|\.join\(\)")
"""How source says that a rank may have fewer batches: torch.distributed.algorithms.join."""


def state_of(optimizer: Any, loop: Loop) -> dict[str, Any]:  # noqa: ANN401 - one of torch
    """Return what a rank has after some steps.

    Args:
        optimizer: The optimizer that has made them.
        loop: The loop of the program, with what it has read.
    """
    groups = optimizer.param_groups
    weights = [each.detach() for group in groups for each in group["params"]]
    return {
        "batches": loop.batches,
        "seen": loop.seen,
        "shapes": [list(each.shape) for each in weights],
        "weights": hash_of(weights),
    }


def compare(mine: dict[str, Any], theirs: dict[str, Any], source: Source) -> Finding | None:
    """Return what is wrong with two ranks that have made as many steps.

    Args:
        mine: What :func:`state_of` has returned on rank 0.
        theirs: What it has returned on rank 1.
        source: The program, as it was read.
    """
    counts = mine["batches"], theirs["batches"]
    if None not in counts and counts[0] != counts[1] and not _JOINS.search(source.text):
        return refusal(
            "ranks",
            source.name,
            f"{source.name}: of two ranks that were tried, rank 0 has {counts[0]} batches per epoch"
            f" and rank 1 has {counts[1]}, so one of them waits at the end of the epoch for "
            "gradients that never come.",
            "Give each rank as many samples as the others, as torch.utils.data.DistributedSampler "
            "does, or drop_last=True",
        )
    if mine["shapes"] != theirs["shapes"] or _DIVIDES_MODEL.search(source.text):
        return None
    if mine["weights"] == theirs["weights"]:
        return _of_samples(mine, theirs, source)
    is_sure = "DistributedSampler" in source.text and not _TALKS.search(source.text)
    judged = refusal if is_sure and source.is_alone else doubt
    return judged(
        "ranks",
        "DistributedDataParallel",
        f"{source.name}: after two steps, two ranks that were tried have other weights, so each "
        "trains a model of its own.",
        "Wrap the model before the first step: model = "
        "torch.nn.parallel.DistributedDataParallel(model); or begin with the same weights, as by "
        "torch.manual_seed(0) on each rank, and average the gradients",
    )


def _of_samples(mine: dict[str, Any], theirs: dict[str, Any], source: Source) -> Finding | None:
    """Return the refusal of two ranks that have read the same batches."""
    seen = mine["seen"]
    if seen != theirs["seen"] or len(set(seen)) < STEPS:
        return None
    return refusal(
        "ranks",
        "DataLoader",
        f"{source.name}: two ranks that were tried have read the same batches, so all of them "
        "train on the same samples.",
        "Give each rank others: DataLoader(data, sampler=DistributedSampler(data)); with Fabric: "
        "fabric.setup_dataloaders(loader); in a stream: itertools.islice(samples, rank, None, "
        "world_size)",
    )
