"""Samples that nobody divides among the ranks, since Lightning is asked not to do so."""

import inspect
import re
import sys
from collections.abc import Iterator

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.sources import own_classes
from getiaction_launch.checking.finding import Finding, doubt

_DIVIDES = re.compile(r"sampler|rank|world|shard|iterable|worker_info", re.IGNORECASE)
"""How source says that ranks get other samples than each other."""


def check_sampling(built: Built) -> Iterator[Finding]:
    """Find loaders of the user's own that give each rank all samples.

    Args:
        built: What the spec names.
    """
    world = built.plan.topology.world_size
    if world == 1 or built.arguments.get("use_distributed_sampler") is not False:
        return
    for kind, key, source in own_classes(built):
        module = sys.modules.get(kind.__module__)
        if "train_dataloader" not in vars(kind) or "DataLoader(" not in source or module is None:
            continue
        try:
            divides = _DIVIDES.search(inspect.getsource(module))
        except (OSError, TypeError):
            continue
        if not divides:
            yield doubt(
                "devices",
                "trainer.use_distributed_sampler",
                f"trainer.use_distributed_sampler=False, and {key} divides nothing itself: each of "
                f"the {world} ranks reads all samples in each epoch.",
                "Leave it out, and Lightning divides them: --trainer.use_distributed_sampler=true",
            )
            return
