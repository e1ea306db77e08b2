"""What a DistributedSampler gives to each of two ranks: parts of one order, or nothing of the sort.

Each rank draws the order of all samples itself and takes every second one, so the parts are apart
only where the ranks draw alike, from the same samples.
"""

import ast
import hashlib
from collections.abc import Callable
from typing import Any

from getiaction_launch.checking.finding import Finding, refusal
from getiaction_launch.checking.loading.subsets import indices_of
from getiaction_launch.checking.source.source import Source

_MOST_INDICES = 1_000_000
_SOME_INDICES = 2000
"""How many indices are compared, to find whether the ranks have some in common."""


def share_of(sampler: Any) -> dict[str, Any] | None:  # noqa: ANN401 - one of torch
    """Return by what a sampler chooses its samples; None if it does so in a way of its own.

    Args:
        sampler: The DistributedSampler of a rank; None if there is none.
    """
    from torch.utils.data import DistributedSampler

    if getattr(type(sampler), "__iter__", None) is not DistributedSampler.__iter__:
        return None
    indices = indices_of(sampler.dataset, _MOST_INDICES)
    apart = max(1, max(indices, default=0) // _SOME_INDICES)
    return {
        "rank": sampler.rank,
        "number": sampler.num_replicas,
        "length": len(sampler.dataset),
        "draw": sampler.seed + sampler.epoch if sampler.shuffle else None,
        "order": hashlib.sha256(repr(indices).encode()).hexdigest(),
        "some": sorted(each for each in indices if each % apart == 0),
    }


def compare_shares(mine: dict[str, Any], theirs: dict[str, Any], source: Source) -> Finding | None:
    """Return why the parts of two ranks overlap; None if they do not.

    Args:
        mine: What :func:`share_of` has returned on rank 0.
        theirs: What it has returned on rank 1.
        source: The program, as it was read.
    """
    both = (mine, theirs)
    if any(each["number"] != len(both) for each in both) or mine["length"] != theirs["length"]:
        return None
    if mine["rank"] == theirs["rank"]:
        what = f"it is given rank {mine['rank']} on both ranks, so they read the same samples"
        fix = "Leave rank and num_replicas out: DistributedSampler(data)"
        return _found(source, what, fix, _makes_sampler)
    if mine["draw"] != theirs["draw"]:
        what = f"seed and epoch are {mine['draw']} together on rank 0 and {theirs['draw']} on rank "
        what += "1, so each draws another order, and their parts overlap"
        fix = "Give it the same seed on each rank, as in DistributedSampler(data, seed=0), and the "
        fix += "same epoch: sampler.set_epoch(epoch)"
        return _found(source, what, fix, _makes_sampler)
    if mine["order"] != theirs["order"] and set(mine["some"]) & set(theirs["some"]):
        what = "the ranks have split or ordered the samples otherwise, so their parts overlap, and "
        what += "one may train on what another holds out"
        fix = "Draw a split with the same seed on each rank: random.Random(0).shuffle(indices), or "
        fix += "random_split(data, lengths, torch.Generator().manual_seed(0))"
        return _found(source, what, fix, _makes_subset)
    return None


def _found(source: Source, what: str, fix: str, is_meant: Callable[[str], bool]) -> Finding:
    calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
    node = next((node for node in calls if is_meant(source.called(node))), None)
    place = source.at(node) if node else source.name
    said = f"{place} ({ast.unparse(node)})" if node else f"{place}: DistributedSampler"
    return refusal("ranks", place, f"{said}: {what}.", fix)


def _makes_sampler(called: str) -> bool:
    return called.endswith("DistributedSampler")


def _makes_subset(called: str) -> bool:
    return called.endswith(("Subset", "random_split"))
