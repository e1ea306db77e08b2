"""Dependencies on other runs, by the names that people know them by."""

import re

from getiaction_launch.backends.slurm.job import SlurmJob
from getiaction_launch.errors import CheckError, RunNotFoundError, UsageError
from getiaction_launch.run.attempt import recorded_ending
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run, find_run
from getiaction_launch.run.state import JobState

_JOB_ID = re.compile(r"\d+(_\d+)?(\+\d+)?")


def resolve(text: str, root: str, poll_seconds: float) -> str:
    """Put job ids in place of runs: ``afterok:@last`` becomes ``afterok:1234``.

    Schedulers forget jobs that have ended, so what is known to be fulfilled is left out.

    Args:
        text: ``type:run[:run...][,type:run...]``; a run is a job id, or what ``find_run`` takes.
        root: Directory or URL below which named runs are looked for.
        poll_seconds: How long an answer of SLURM may be reused.

    Returns:
        The same for the scheduler; empty where all is fulfilled.

    Raises:
        UsageError: For what is no dependency.
        CheckError: For one that can never be fulfilled.
        RunNotFoundError: If there is no such run.
    """
    kept = []
    for clause in text.split(","):
        kind, *references = clause.split(":")
        if not references and kind != "singleton":
            raise UsageError(f"--dependency {text!r} names no run.", "--dependency afterok:@last")
        ids = [_resolve_run(kind, reference, root, poll_seconds) for reference in references]
        ids = [job_id for job_id in ids if job_id]
        if ids or not references:
            kept.append(":".join([kind, *ids]))
    return ",".join(kept)


def _resolve_run(kind: str, reference: str, root: str, poll_seconds: float) -> str:
    if _JOB_ID.fullmatch(reference):
        return reference
    try:
        run = find_run(reference, root)
    except RunNotFoundError as error:
        what, _, fix = str(error).partition("\n")
        if "--root" in fix:  # a flag of other verbs
            fix = "Name the run's directory, or where it lies: --storage-root DIR"
        raise RunNotFoundError(f"--dependency {kind}:{reference}: {what}", fix) from error
    record = JobRecord.read(run) or JobRecord()
    state = _state(run, record, poll_seconds)
    if state.is_over:
        succeeded = state is JobState.SUCCEEDED
        if (kind == "afterok" and not succeeded) or (kind == "afternotok" and succeeded):
            raise CheckError(
                f"--dependency {kind}:{reference}: run {run.name} has ended as "
                f"{state.value}, so this could never start.",
                "Leave the dependency out, or name another run.",
            )
        return ""
    if not _JOB_ID.fullmatch(record.job_id):
        how = f"is {record.job_id}" if record.job_id else "was never submitted"
        raise CheckError(
            f"--dependency {kind}:{reference}: run {run.name} is not a SLURM job, it {how}.",
            "Name a run that was submitted to the same cluster.",
        )
    return record.job_id


def _state(run: Run, record: JobRecord, poll_seconds: float) -> JobState:
    if ending := recorded_ending(run):
        return ending.state
    if not _JOB_ID.fullmatch(record.job_id):
        return JobState.UNKNOWN
    state = SlurmJob(run, record, poll_seconds).status().state
    # Only done.json means success.
    return JobState.FAILED if state is JobState.SUCCEEDED else state
