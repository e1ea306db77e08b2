"""All that is checked of a Trainer, a model and its data, once they are there."""

from collections.abc import Callable, Iterable, Iterator

from getiaction_launch.checking.apart.pair import Pair
from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.collectives import check_collectives
from getiaction_launch.checking.classes.counters import check_counters
from getiaction_launch.checking.classes.finders import check_finders
from getiaction_launch.checking.classes.hooks import check_hooks
from getiaction_launch.checking.classes.sampling import check_sampling
from getiaction_launch.checking.classes.skipping import check_skipping
from getiaction_launch.checking.classes.splits import check_splits
from getiaction_launch.checking.finding import Finding, ok, unknown
from getiaction_launch.checking.rules.checkpoints import check_checkpoints
from getiaction_launch.checking.rules.combinations import check_combination
from getiaction_launch.checking.rules.hidden import check_preparation
from getiaction_launch.checking.rules.loggers import check_loggers
from getiaction_launch.checking.rules.ownership import check_owners
from getiaction_launch.checking.trial.losses import noting_shapes
from getiaction_launch.checking.trial.step import Trial
from getiaction_launch.checking.trial.together import can_train_together, follow, lead


def judge(built: Built, *, is_deep: bool, pair: Pair | None = None) -> None:
    """Check what was built, and train two batches of it, in the process apart.

    Args:
        built: What a spec names, or what a script has given to ``Trainer.fit``.
        is_deep: Whether to try a model of any size.
        pair: Two ranks, which train together what rank 0 has trained alone; None for one rank.
    """
    try:
        is_pair = pair is not None and can_train_together(built, is_deep=is_deep)
        trial = Trial(built, is_deep=is_deep, may_postpone=is_pair, reads=not (pair and pair.rank))
        if pair is not None:  # data that rank 0 prepares for the others
            built.trainer.strategy.barrier = lambda *_, **__: pair.lockstep.meet()
            _prepare_in_turn(built, pair)
        if pair is not None and pair.rank:
            follow(built, trial, pair, is_tried=is_pair)
        built.send(ok("model", type(built.model).__name__))
        checks = (
            *(check_combination, check_sampling, check_hooks, check_checkpoints, check_loggers),
            *(check_owners, check_collectives, check_preparation, check_splits, check_finders),
            *(check_counters, check_skipping),
        )
        found = [finding for check in checks for finding in _sent(built, check)]
        doubts: list[Finding] = []
        with noting_shapes(doubts):
            has_trained = trial.run()
        for finding in doubts:
            built.send(finding)
        is_refused = any(finding.is_refusal for finding in found)
        if pair is not None and (has_trained or trial.postponed) and is_pair and not is_refused:
            lead(built, trial, pair)
        elif trial.postponed:
            built.send(trial.postponed)
    except Exception as error:  # noqa: BLE001 - a fault of a check is none of the run
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        built.send(unknown("trial", f"a check has failed itself: {why}"))


def _prepare_in_turn(built: Built, pair: Pair) -> None:
    """Have ``prepare_data`` called as in the run, and on one node after the other.

    Nodes of the run may have disks of their own; what the two ranks write is on the same one.
    """
    if built.data is None:
        return
    prepare = built.data.prepare_data
    is_alone = built.plan.topology.workers_per_node == 1  # on its node
    is_asked = pair.rank == 0 or (is_alone and getattr(built.data, "prepare_data_per_node", True))

    def prepare_in_turn() -> None:
        built.data.prepare_data = prepare  # a class may call it itself, on each rank
        with pair.lockstep.in_turn():
            if is_asked:
                prepare()

    built.data.prepare_data = prepare_in_turn


def _sent(built: Built, check: Callable[[Built], Iterable[Finding]]) -> Iterator[Finding]:
    """Send what a check finds, and yield it."""
    for finding in check(built):
        built.send(finding)
        yield finding
