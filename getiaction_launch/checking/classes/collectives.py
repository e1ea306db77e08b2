"""Collectives in the user's own classes that rank 0 calls alone."""

import inspect
from collections.abc import Iterator
from pathlib import Path

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import own_classes, tree_of
from getiaction_launch.checking.finding import Finding
from getiaction_launch.checking.ranks.rank_zero import collectives_of_rank_0


def check_collectives(built: Built) -> Iterator[Finding]:
    """Check that no class has rank 0 wait alone for the other ranks.

    Args:
        built: What the spec names.
    """
    if built.plan.topology.world_size == 1:
        return
    for kind, key, source in own_classes(built):
        if tree := tree_of(source):
            file, first = Path(inspect.getfile(kind)).name, inspect.getsourcelines(kind)[1]
            yield from collectives_of_rank_0(tree, file, first - 1, key)
