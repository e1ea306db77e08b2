"""Sharded checkpoints, which each node writes a part of: where a run may have them."""

from collections.abc import Mapping

from getiaction_launch.errors import CheckError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import read_trainer

_KINDS = ("fsdp", "deepspeed", "modelparallel")
"""Parts of the names of Lightning's sharded strategies, in lower case and without underscores."""


def check_sharding(plan: Plan) -> None:
    """Refuse a spec with a sharded strategy on several nodes, if the run lies at a URL.

    A script's strategy is known to its workers only, which check it before they train.

    Raises:
        CheckError: If no node would have the whole checkpoint.
    """
    found = read_trainer(plan.arguments, ("strategy", "strategy.class_path"))
    strategy = found.get("strategy.class_path") or found.get("strategy")
    if isinstance(strategy, Mapping):
        strategy = strategy.get("class_path")
    name = str(strategy or "").rpartition(".")[2]
    if any(kind in name.lower().replace("_", "") for kind in _KINDS):
        refuse_sharded(name, plan.topology.num_nodes, plan.root)


def refuse_sharded(strategy: str, num_nodes: int, place: str) -> None:
    """Refuse a sharded strategy on several nodes for a run at a URL.

    Args:
        strategy: Name of the strategy.
        num_nodes: Number of nodes of the run.
        place: Path or URL of the run, or of its root.

    Raises:
        CheckError: If no node would have the whole checkpoint.
    """
    if num_nodes > 1 and "://" in place:
        raise CheckError(
            f"strategy={strategy!r} writes a part of each checkpoint on each of {num_nodes} nodes, "
            f"so none of them has a whole one to upload to {place}.",
            "Use a directory that all nodes share: --trainer.default_root_dir=/shared/experiments\n"
            "or one node, or a strategy that writes one file: --trainer.strategy=ddp",
        )
