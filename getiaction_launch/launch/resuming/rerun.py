"""Starts another run by the plan of one that is there: with the same code, in the next version.

Nothing of the run itself changes, and it may still train. The new run begins at the first step, or
at a checkpoint of the other one.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from getiaction_launch.errors import CheckError, SpecError, UsageError, disk_errors
from getiaction_launch.launch.check import check_place
from getiaction_launch.launch.resuming.change import Changed, Changes, change
from getiaction_launch.launch.status import backend_of, read_status
from getiaction_launch.launch.submit import start
from getiaction_launch.launch.trust import check_owner
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import parse
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.keys import why_refused
from getiaction_launch.storage.paths import kind_of

_NOTHING = Changes()
Start = Literal["best", "last"]


@disk_errors()
def rerun(
    run: Run,
    *,
    trust: bool = False,
    changes: Changes = _NOTHING,
    from_checkpoint: Start | None = None,
    report: Callable[[Changed], None] | None = None,
) -> Run:
    """Start a new version of a run, with the same plan and the same copy of its code.

    Args:
        run: The run whose plan to train again, in any state.
        trust: Whether to run what another user's records say; without it, that is refused.
        changes: What shall be different.
        from_checkpoint: Which checkpoint of the run to begin at; None to begin at the first step.
        report: Function that reports what is different; called before anything is started.

    Raises:
        LaunchError: If there is no such checkpoint, the run belongs to another user, or the new one
            cannot be started from here.
    """
    if not trust:
        check_owner(run, "rerun")
    changed = plan_again(run, changes=changes, from_checkpoint=from_checkpoint)
    if report:
        report(changed)
    if changed.plan.arguments != changed.before.arguments:
        parse(changed.plan.arguments)
    check_place(changed.plan, changed.backend)
    if changed.files:
        from getiaction_launch.launch.freezing.freeze import freeze_again  # slow to import

        changed = replace(changed, plan=freeze_again(run, changed.plan, changed.files))
    return start([changed.plan], changed.backend, None)[0]


def plan_again(
    run: Run, *, changes: Changes = _NOTHING, from_checkpoint: Start | None = None
) -> Changed:
    """Decide how a new version of a run would be trained, without starting or writing anything.

    Args:
        run: The run whose plan to train again.
        changes: What shall be different.
        from_checkpoint: Which checkpoint of the run to begin at; None to begin at the first step.

    Raises:
        LaunchError: If the run cannot be trained again, or not like this.
    """
    record = JobRecord.read(run)
    if record is None and not changes.cluster:
        raise CheckError(
            f"run {run.name} was never submitted, so nothing says where to train it.",
            f"Name a cluster: getiaction-launch rerun --cluster local {run.directory}",
        )
    record = record or JobRecord()
    if not changes.cluster and backend_of(run, record).attach(run, record).resume_command:
        raise CheckError(
            f"run {run.name} was started inside your own batch script, which would have to start "
            "another one.",
            f"Or name a cluster: getiaction-launch rerun --cluster slurm {run.directory}",
        )
    if from_checkpoint:
        path = _checkpoint(run, from_checkpoint, changes)
        changes = replace(changes, overrides=[*changes.overrides, ("ckpt_path", str(path))])
    changed = change(run, changes, is_new=True)
    before, plan = changed.before, changed.plan
    is_same = not changes.overrides
    if before.code is None or before.code.archive is None:
        changed.notes.append("it trains your present files, as no copy was made of those of then.")
    return replace(
        changed,
        plan=replace(
            plan,
            # Beside the run, wherever that has been moved.
            root=str(run.directory.parents[1]),
            name=run.directory.parent.name,
            sweep=before.sweep if is_same else None,
        ),
    )


def _checkpoint(run: Run, name: Start, changes: Changes) -> Path:
    """Return the path or URL of a checkpoint to begin at.

    Raises:
        SpecError: If the run trains a script, or nothing would be left to train.
        UsageError: If the run has no such checkpoint.
    """
    from getiaction_launch.mirror.pull import find_checkpoint

    flag = f"--from-checkpoint {name}"
    if Plan.of(run).script:
        raise SpecError(
            f"{flag} needs a spec: run {run.name} trains a script, which loads its own.",
            f"Where that is: getiaction-launch pull --checkpoint {name} {run.directory}",
        )
    status = read_status(run)
    if name == "last" and status.state is JobState.SUCCEEDED and not changes.raises_limit:
        raise SpecError(
            f"{flag}: run {run.name} has finished, so nothing is left to train from there.",
            "Raise its limit: --trainer.max_epochs=N",
        )
    at = status.progress.checkpoints.get(name, "")
    if at and why_refused(at) is None and kind_of(run.directory / at):
        return run.directory / at
    try:
        return find_checkpoint(run, name)
    except (CheckError, UsageError) as error:
        none = f"run {run.name} has saved no checkpoint yet."
        is_none = isinstance(error, CheckError)
        raise UsageError(
            f"{flag}: {none if is_none else error.what.removeprefix(f'--checkpoint {name}: ')}",
            f"Name one: getiaction-launch rerun --ckpt_path=PATH {run.directory}",
        ) from error
