"""Refuses training strategies that start processes of their own, before a run is queued."""

from collections.abc import Mapping

from getiaction_launch.errors import SpecError
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import read_trainer

_NAMES = ("ddp_spawn", "ddp_fork", "ddp_notebook")
_METHODS = ("spawn", "fork", "forkserver")
_METHOD_KEYS = ("strategy.init_args.start_method", "strategy.start_method")


def check_strategy(plan: Plan) -> None:
    """Refuse such a strategy: the launcher starts one worker per device already.

    A script's strategy is not known before it runs; its worker refuses it.

    Args:
        plan: The plan of a run, with the arguments of its spec.

    Raises:
        SpecError: If the spec's strategy spawns or forks processes.
    """
    found = read_trainer(plan.arguments, ("strategy", *_METHOD_KEYS))
    strategy = found.get("strategy")
    methods = [found.get(key) for key in _METHOD_KEYS]
    if isinstance(strategy, Mapping):
        arguments = strategy.get("init_args")
        methods += [arguments.get("start_method")] if isinstance(arguments, Mapping) else []
        methods += [strategy.get("start_method")]
    method = next((method for method in methods if method in _METHODS), None)
    is_named = isinstance(strategy, str) and strategy.startswith(_NAMES)
    if not is_named and method is None:
        return
    value = f"trainer.strategy={strategy!r}" if is_named else f"start_method={method!r}"
    raise SpecError(
        f"{value} starts processes of its own, and getiaction-launch starts one for each device.",
        "Use ddp: --trainer.strategy=ddp, or strategy: ddp",
    )
