"""Dependencies on other runs, by the names that people know them by."""

import re
from dataclasses import replace

from getiaction_launch.backends.backend import Backend
from getiaction_launch.backends.flag import settings_of
from getiaction_launch.errors import CheckError, RunNotFoundError, UsageError
from getiaction_launch.launch.status import read_status
from getiaction_launch.run.run import find_run
from getiaction_launch.run.state import JobState

_JOB_ID = re.compile(r"\d+(_\d+)?(\+\d+)?")


def name_jobs(backend: Backend, root: str) -> Backend:
    """Put job ids in place of runs in the settings of a backend that may name some.

    Args:
        backend: The backend with its settings as typed.
        root: The root directory below which named runs lie.

    Raises:
        LaunchError: As :func:`resolve`.
    """
    names = [setting.name for setting in settings_of(type(backend)) if setting.flag.names_runs]
    texts = {name: getattr(backend, name) for name in names}
    ids = {name: resolve(text, root) or None for name, text in texts.items() if text}
    return replace(backend, **ids)  # type: ignore[type-var] # a backend is a dataclass


def resolve(text: str, root: str) -> str:
    """Put job ids in place of runs: ``afterok:@last`` becomes ``afterok:1234``.

    Schedulers forget jobs that have ended, so what is known to be fulfilled is left out.

    Args:
        text: ``type:run[:run...][,type:run...]``; a run is a job id, or what ``find_run`` takes.
        root: Where named runs lie.

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
        ids = [_resolve_run(kind, reference, root) for reference in references]
        ids = [job_id for job_id in ids if job_id]
        if ids or not references:
            kept.append(":".join([kind, *ids]))
    return ",".join(kept)


def _resolve_run(kind: str, reference: str, root: str) -> str:
    if _JOB_ID.fullmatch(reference):
        return reference
    try:
        run = find_run(reference, root)
    except RunNotFoundError as error:
        what, _, fix = str(error).partition("\n")
        if "--root" in fix:  # a flag of other verbs
            fix = "Name the run's directory, or where it lies: --storage-root DIR"
        raise RunNotFoundError(f"--dependency {kind}:{reference}: {what}", fix) from error
    status = read_status(run)
    job_id = str((run.read("job") or {}).get("job_id", ""))
    if status.state.is_over:
        succeeded = status.state is JobState.SUCCEEDED
        if (kind == "afterok" and not succeeded) or (kind == "afternotok" and succeeded):
            raise CheckError(
                f"--dependency {kind}:{reference}: run {run.name} has ended as "
                f"{status.state.value}, so this could never start.",
                "Leave the dependency out, or name another run.",
            )
        return ""
    if not _JOB_ID.fullmatch(job_id):
        raise CheckError(
            f"--dependency {kind}:{reference}: run {run.name} is no job of this scheduler, but "
            f"{job_id or 'was never submitted'}.",
            "Name a run that was submitted to the same cluster.",
        )
    return job_id
