"""What two ranks have after as many steps, by which it shows whether they train one model."""

import gc
import re
from typing import Any

from getiaction_launch.checking.finding import Finding, doubt, refusal
from getiaction_launch.checking.loading.batches import hash_of
from getiaction_launch.checking.plain.loop import STEPS, Loop
from getiaction_launch.checking.plain.shares import compare_shares, share_of
from getiaction_launch.checking.source.source import Source

DIVIDES_MODEL = re.compile(
    r"fsdp|fully_?shard|dtensor|zeroredundancy|pipelin|tensor.?parallel|parallelize|deepspeed",
    re.IGNORECASE,
)
"""How source says that each rank has another part of the model."""
_TALKS = re.compile(
    r"reduce|gather|scatter|broadcast|average|send\(|recv\(|P2POp|hook|horovod|rpc", re.IGNORECASE
)
"""How source says that the ranks agree in a way of its own."""
_JOINS = re.compile(r"\bJoin\b|\.join\(")
"""How source says that a rank may have fewer batches: torch.distributed.algorithms.join."""


def state_of(optimizer: Any, loop: Loop) -> dict[str, Any]:  # noqa: ANN401 - one of torch
    """Return what a rank has after some steps.

    Args:
        optimizer: The optimizer that has made them.
        loop: The loop of the program, with what it reads for them.
    """
    from torch import distributed

    groups, sampler = optimizer.param_groups, loop.reading.sampler
    weights = [each.detach() for group in groups for each in group["params"]]
    return {
        "batches": loop.reading.batches,
        "seen": loop.reading.seen,
        "shapes": [list(each.shape) for each in weights],
        "weights": hash_of(weights),
        "is_divided": sampler is not None and distributed.is_initialized(),
        "share": share_of(sampler),
    }


def _is_wrapper(each: object) -> bool:
    return type(each).__name__ == "DistributedDataParallel"


def compare(mine: dict[str, Any], theirs: dict[str, Any], source: Source) -> Finding | None:
    """Return what is wrong with two ranks that have made as many steps.

    Nothing but models that are certainly trained apart is refused: a program may read a part of a
    loader, or train on another part of each batch.

    Args:
        mine: What :func:`state_of` has returned on rank 0.
        theirs: What it has returned on rank 1.
        source: The program, as it was read.
    """
    if mine["shapes"] != theirs["shapes"] or DIVIDES_MODEL.search(source.text):
        return None
    if mine["share"] and theirs["share"]:
        found = compare_shares(mine["share"], theirs["share"], source)
        if found is not None:
            return found
    if mine["weights"] != theirs["weights"]:
        # What is trained beside a wrapped model may well be the rank's own.
        is_wrapped = any(map(_is_wrapper, gc.get_objects()))
        return None if is_wrapped else _of_weights(mine, source)
    counts = mine["batches"], theirs["batches"]
    if None not in counts and counts[0] != counts[1] and not _JOINS.search(source.text):
        return doubt(
            "ranks",
            source.name,
            f"{source.name}: of two ranks that were tried, rank 0 has {counts[0]} batches per epoch"
            f" and rank 1 has {counts[1]}: if each reads all of its own, one waits at the end of "
            "the epoch for gradients that never come.",
            "Give each rank as many samples as the others, as torch.utils.data.DistributedSampler "
            "does, or drop_last=True",
        )
    seen = mine["seen"]
    if None in seen or seen != theirs["seen"] or len(set(seen)) < STEPS:
        return None
    return doubt(
        "ranks",
        "DataLoader",
        f"{source.name}: two ranks that were tried have read the same batches: unless each takes "
        "its own part of them, all train on the same samples.",
        "Give each rank others: DataLoader(data, sampler=DistributedSampler(data)); with Fabric: "
        "fabric.setup_dataloaders(loader); in a stream: itertools.islice(samples, rank, None, "
        "world_size)",
    )


def _of_weights(mine: dict[str, Any], source: Source) -> Finding:
    is_sure = mine["is_divided"] and source.is_alone and not _TALKS.search(source.text)
    judged = refusal if is_sure else doubt
    return judged(
        "ranks",
        "DistributedDataParallel",
        f"{source.name}: after two steps, two ranks that were tried have other weights, so each "
        "trains a model of its own.",
        "Wrap the model before the first step: model = "
        "torch.nn.parallel.DistributedDataParallel(model); or begin with the same weights, as by "
        "torch.manual_seed(0) on each rank, and average the gradients",
    )
