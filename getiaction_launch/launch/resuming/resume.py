"""Resume runs that have ended: where they were, or on another cluster, in another geometry, longer.

The run stays in its directory. ``plan.json`` holds the plan of the next attempt, and each earlier
one that differs stays as ``plan_before_attempt_N.json``. If the submission fails, all records are
put back.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from getiaction_launch.errors import CheckError, SpecError, disk_errors
from getiaction_launch.launch.check import check_place
from getiaction_launch.launch.resuming.change import LIMITS, Changed, Changes, change
from getiaction_launch.launch.resuming.continuing import commit_end
from getiaction_launch.launch.status import backend_of, read_status
from getiaction_launch.launch.trust import check_owner
from getiaction_launch.plan.plan import Plan
from getiaction_launch.plan.spec import parse, read_trainer
from getiaction_launch.run.records import Cancel, Done, JobRecord, read_attempts
from getiaction_launch.run.restart import reopen
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState
from getiaction_launch.storage.claim import create
from getiaction_launch.storage.paths import is_remote, remove

LOCK_SECONDS = 180  # longer than a scheduler may take to answer
EARLIER_PLAN = "plan_before_attempt_{}"
"""Record with the plan of the attempts before one that has another plan."""
_NOTHING = Changes()


@disk_errors()
def resume(
    run: Run,
    *,
    force: bool = False,
    trust: bool = False,
    settings: Mapping[str, object] | None = None,
    changes: Changes = _NOTHING,
    report: Callable[[Changed], None] | None = None,
) -> None:
    """Start another attempt of a run that has ended, perhaps elsewhere or for longer.

    It continues in the same directory, from the newest committed checkpoint.

    Args:
        run: The run to resume.
        force: Whether to resume it also if nobody can say whether its job still runs. If that
            does, two jobs write to the directory until the old one notices that ``job.json`` names
            another job, and ends without saving.
        trust: Whether to run what another user's records say; without it, that is refused.
        settings: Settings of the backend that replace those of the job before, such as the
            ``address`` of another Ray cluster.
        changes: What shall be different in the next attempts.
        report: Function that reports how the run will continue; called before anything is started.

    Raises:
        LaunchError: If the run has not ended, has finished and shall not train for longer, belongs
            to another user, or cannot be started from here.
    """
    if not trust:
        check_owner(run, "resume")
    with _locked(run):
        changed = preview(run, force=force, changes=changes)
        if report:
            report(changed)
        backend = changed.backend.with_settings(settings or {})
        if changed.plan.arguments != changed.before.arguments:
            parse(changed.plan.arguments)
        check_place(changed.plan, backend)
        record = JobRecord.read(run) or JobRecord()
        if changes.is_code_now:
            from getiaction_launch.launch.freezing.freeze import freeze_again  # slow to import

            changed = replace(changed, plan=freeze_again(run, changed.plan, changed.files))
        claim = _claim_resume(run, record) if is_remote(run.directory) else None
        with _restoring(run, claim):
            _reopen(run, changed)
            backend.submit([run], None)


def preview(run: Run, *, force: bool = False, changes: Changes = _NOTHING) -> Changed:
    """Decide how a run would continue, without starting or writing anything.

    Args:
        run: The run to resume.
        force: Whether it may be resumed if nobody can say whether its job still runs.
        changes: What shall be different in the next attempts.

    Raises:
        LaunchError: If the run cannot be resumed, or not like this.
    """
    check_resumable(run, force=force, changes=changes)
    record = JobRecord.read(run) or JobRecord()
    job = backend_of(run, record).attach(run, record)
    if job.resume_command and not changes.cluster:
        raise CheckError(
            f"run {run.name} was started inside your own batch script, and must be resumed "
            "inside one.",
            f"{job.resume_command} {run.directory}\n"
            f"Or name a cluster: getiaction-launch resume --cluster slurm {run.directory}",
        )
    changed = change(run, changes)
    if done := Done.read(run):
        _check_longer(run, changed, done, changes)
        changed.warnings.append(
            "it had finished, and continues from its last checkpoint. Random numbers, such as "
            "dropout's, are drawn anew, so the result is not exactly that of one longer training."
        )
    return changed


def _reopen(run: Run, changed: Changed) -> None:
    """Let the next attempt follow, by its own plan."""
    if changed.plan != changed.before:
        keep_plan(run)
        run.write("plan", changed.plan.to_json())
        if changed.plan.arguments != changed.before.arguments:
            commit_end(run, Done.read(run))
    if record := JobRecord.read(run):
        # First: a job of before that is started in this moment must see that it has lost the run.
        replace(record, previous_job_ids=record.job_ids).write(run)
    reopen(run)
    Done.remove(run)


def keep_plan(run: Run) -> None:
    """Keep the plan of the attempts so far, before the next ones get another."""
    earlier = EARLIER_PLAN.format(len(read_attempts(run)))
    if run.read(earlier) is None:
        run.write(earlier, run.read("plan") or {})


@contextlib.contextmanager
def _restoring(run: Run, claim: Path | None) -> Iterator[None]:
    """Put the run's records back if what is done in this context fails.

    Args:
        run: The run that is about to be resumed.
        claim: What was claimed for it on remote storage, to be given back then.
    """
    number = len(read_attempts(run))
    names = ["plan", EARLIER_PLAN.format(number), Cancel.NAME, Done.NAME]
    if number:
        names.append(f"attempt_{number - 1}")
    before = {name: run.read(name) for name in names}
    job = run.read(JobRecord.NAME)
    try:
        yield
    except BaseException:
        for name, content in before.items():
            with contextlib.suppress(OSError):  # the first error says more
                if content is None:
                    run.forget(name)
                elif run.read(name) != content:
                    run.write(name, content)
        with contextlib.suppress(OSError, KeyError):  # as above
            latest = run.read(JobRecord.NAME)
            # A job that is submitted, although the command was interrupted, stays on record.
            if job and latest and latest["job_id"] == job["job_id"]:
                run.write(JobRecord.NAME, job)
        if claim:
            with contextlib.suppress(OSError):  # as above
                remove(claim)
        raise


@contextlib.contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Resume a run in one process of this machine at a time."""
    from filelock import FileLock, Timeout

    # For a run on remote storage this locks out this machine's processes only.
    run.make_log_directory(0)
    lock = FileLock(run.local.launch_directory / "resume.lock", timeout=LOCK_SECONDS)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except Timeout:
            raise CheckError(
                f"another process has been resuming run {run.name} for {LOCK_SECONDS} s.",
                f"See its state: getiaction-launch status {run.directory}",
            ) from None
        yield


def _claim_resume(run: Run, record: JobRecord) -> Path:
    """Make sure that only one of several machines resumes the run.

    Raises:
        CheckError: If another machine was faster.
    """
    claim = run.launch_directory / f"job_after_{record.job_id}"
    if not create(claim):
        raise CheckError(
            f"run {run.name} has just been resumed by somebody else.",
            f"See its state: getiaction-launch status {run.directory}\n"
            f"If it did not start, allow another try: aws s3 rm {claim}",
        )
    return claim


def check_resumable(run: Run, *, force: bool = False, changes: Changes = _NOTHING) -> None:
    """Check that a run has ended, and that something is left to train.

    Args:
        run: The run to resume.
        force: Whether it may also be resumed if nobody can say whether its job still runs.
        changes: What shall be different in the next attempts.

    Raises:
        CheckError: If the run has finished, or may still run.
    """
    status = read_status(run)
    if status.state is JobState.SUCCEEDED and not changes.raises_limit:
        raise CheckError(
            f"run {run.name} has finished; there is nothing to resume.", _how_to_train_on(run)
        )
    if status.state.is_over:
        return
    is_doubtful = status.state is JobState.UNKNOWN or not status.is_certain
    if is_doubtful and force:
        return
    why = f" ({status.reason})" if is_doubtful and status.reason else ""
    fix = f"End it first: getiaction-launch cancel {run.directory}"
    if is_doubtful:
        fix += f"\nIf its machine is gone: getiaction-launch resume --force {run.directory}"
    raise CheckError(
        f"run {run.name} is {status.state.value}{why}; it cannot be resumed while it may run.", fix
    )


def _how_to_train_on(run: Run) -> str:
    if Plan.of(run).script:
        return "To train further, start a run from its checkpoint: --ckpt_path=PATH"
    return (
        "To train for longer, raise its limit: "
        f"getiaction-launch resume --trainer.max_epochs=N {run.directory}"
    )


def _check_longer(run: Run, changed: Changed, done: Done, changes: Changes) -> None:
    """Check that a run that has finished would train at all.

    Raises:
        SpecError: If one of its limits is still reached.
    """
    keys = (*LIMITS, "accumulate_grad_batches")
    before = read_trainer(changed.before.arguments, keys)
    after = read_trainer(changed.plan.arguments, keys)
    steps = (done.step or 0) // max(1, _number(after.get("accumulate_grad_batches")))
    reached = {"max_epochs": done.max_epochs or 0, "max_steps": _number(before.get("max_steps"))}
    typed = {key.removeprefix("trainer.") for key, _ in changes.overrides}
    for key, old in reached.items():
        new = _number(after.get(key))
        if key in typed and 0 <= new <= old:
            raise SpecError(
                f"--trainer.{key}={new}: run {run.name} has finished with trainer.{key}={old}.",
                f"Give more than that: --trainer.{key}={2 * old}",
            )
        if key == "max_steps" and key not in typed and 0 < new <= steps:
            raise SpecError(
                f"run {run.name} has reached trainer.max_steps={new}, which ends it again.",
                f"Raise it too: --trainer.max_steps={2 * new}",
            )


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
