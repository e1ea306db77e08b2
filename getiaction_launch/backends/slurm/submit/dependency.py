"""Dependencies of jobs on other runs, which users name instead of job ids."""

import re

from getiaction_launch.backends.backend import load_backend
from getiaction_launch.backends.slurm.job import SlurmJob
from getiaction_launch.errors import (
    CheckError,
    RunNotFoundError,
    UnreachableError,
    UsageError,
    nearest_first,
)
from getiaction_launch.run.attempt import read_end
from getiaction_launch.run.reading.find import find_run
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import JobState

_JOB_ID = re.compile(r"\d+(_\d+)?(\+\d+)?")
_ALONE = "singleton"
_TYPES = (
    *("after", "afterany", "afterburstbuffer", "aftercorr", "afternotok", "afterok"),
    *("expand", _ALONE),
)
"""The types of dependencies that sbatch knows, in small or capital letters."""


def resolve(text: str, root: str, poll_seconds: float) -> str:
    """Replace runs by job ids: ``afterok:@last`` becomes ``afterok:1234``.

    Schedulers forget jobs that have ended, so dependencies that are already fulfilled are left out.

    Args:
        text: ``type:run[:run...][,type:run...]``, where a run is a job id, or a reference as
            :func:`~getiaction_launch.run.reading.find.find_run` takes it; or with ``?`` in place of
            the commas, if one of them is enough.
        root: Directory or URL in which to look for runs.
        poll_seconds: How old an answer of SLURM may be, in seconds.

    Returns:
        The dependency with job ids; empty if all of it is fulfilled.

    Raises:
        UsageError: If the text is not a dependency.
        CheckError: If the dependency can never be fulfilled.
        RunNotFoundError: If no run has a given name, directory or URL.
    """
    if {",", "?"} <= set(text):
        what = f"--dependency {text!r} has both ',' and '?', and sbatch takes only one of them."
        fix = "Put ',' between dependencies that must all be fulfilled, or '?' if one is enough"
        raise UsageError(what, fix)
    clauses = [clause.split(":") for clause in re.split("[,?]", text)]
    for kind, *references in clauses:
        _check_type(kind, text, is_alone=not references)
    kept, is_any = [], "?" in text
    for kind, *references in clauses:
        ids = [_resolve_run(kind, reference, root, poll_seconds) for reference in references]
        if is_any and "" in ids:
            return ""
        ids = [job_id for job_id in ids if job_id]
        if ids or not references:
            kept.append(":".join([kind, *ids]))
    return ("?" if is_any else ",").join(kept)


def _check_type(kind: str, text: str, *, is_alone: bool) -> None:
    """Check that sbatch knows a type, and that a run follows where it needs one.

    Raises:
        UsageError: If sbatch would refuse the type, or it names no run.
    """
    if is_alone and kind.lower() != _ALONE:
        raise UsageError(
            f"--dependency {text!r} does not name a run.", "--dependency afterok:@last"
        )
    if kind.lower() not in _TYPES:
        what = f"--dependency {text}: {kind!r} is not a type of dependency."
        raise UsageError(what, nearest_first(kind, _TYPES))


def _resolve_run(kind: str, reference: str, root: str, poll_seconds: float) -> str:
    if _JOB_ID.fullmatch(reference):
        return reference
    try:
        run = find_run(reference, root)
    except RunNotFoundError as error:
        what, _, fix = str(error).partition("\n")
        if "--root" in fix:  # only other verbs have this flag
            fix = "Name the run's directory, or the directory of all runs: --storage-root DIR"
        raise RunNotFoundError(f"--dependency {kind}:{reference}: {what}", fix) from error
    record = JobRecord.read(run) or JobRecord()
    state = _state(run, record, poll_seconds)
    if state.is_over:
        succeeded = state is JobState.SUCCEEDED
        if kind.lower() == ("afternotok" if succeeded else "afterok"):
            raise CheckError(
                f"--dependency {kind}:{reference}: run {run.name} ended as {state.value}, so this "
                "run could never start.",
                "Leave the dependency out, or name another run.",
            )
        return ""
    if not _JOB_ID.fullmatch(record.job_id):
        how = f"its job is {record.job_id}" if record.job_id else "it was never submitted"
        raise CheckError(
            f"--dependency {kind}:{reference}: run {run.name} is not a SLURM job: {how}.",
            "Name a run that was submitted to the same cluster.",
        )
    return record.job_id


def _state(run: Run, record: JobRecord, poll_seconds: float) -> JobState:
    if ending := read_end(run).ending:
        return ending.state
    try:
        if _JOB_ID.fullmatch(record.job_id):
            state = SlurmJob(run, record, poll_seconds).status().state
        else:  # of another cluster
            backend = load_backend(record.backend, f"{run.launch_directory / 'job.json'}")
            state = backend.attach(run, record).status().state
    except UnreachableError:
        return JobState.UNKNOWN
    # The job may have ended and written its last record since the records were read.
    if state.is_over and (ending := read_end(run).ending):
        return ending.state
    return JobState.FAILED if state is JobState.SUCCEEDED else state  # only done.json means success
