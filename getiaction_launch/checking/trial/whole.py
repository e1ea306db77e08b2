"""All that is checked of a Trainer, a model and its data, once they are there."""

from getiaction_launch.checking.built import Built
from getiaction_launch.checking.classes.collectives import check_collectives
from getiaction_launch.checking.classes.hooks import check_hooks
from getiaction_launch.checking.classes.sampling import check_sampling
from getiaction_launch.checking.classes.splits import check_splits
from getiaction_launch.checking.finding import ok, unknown
from getiaction_launch.checking.rules.checkpoints import check_checkpoints
from getiaction_launch.checking.rules.combinations import check_combination
from getiaction_launch.checking.rules.hidden import check_preparation
from getiaction_launch.checking.rules.loggers import check_loggers
from getiaction_launch.checking.rules.ownership import check_owners
from getiaction_launch.checking.trial.step import Trial


def judge(built: Built, *, is_deep: bool) -> None:
    """Check what was built, and train two batches of it, in the process apart.

    Args:
        built: What a spec names, or what a script has given to ``Trainer.fit``.
        is_deep: Whether to try a model of any size.
    """
    built.send(ok("model", type(built.model).__name__))
    try:
        checks = (
            *(check_combination, check_sampling, check_hooks, check_checkpoints, check_loggers),
            *(check_owners, check_collectives, check_preparation, check_splits),
        )
        for check in checks:
            for finding in check(built):
                built.send(finding)
        Trial(built, is_deep=is_deep).run()
    except Exception as error:  # noqa: BLE001 - a fault of a check is none of the run
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        built.send(unknown("trial", f"a check has failed itself: {why}"))
