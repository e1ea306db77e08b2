"""Freezes the user's code at submission: what is changed later reaches no attempt of the run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from getiaction_launch.errors import LaunchError
from getiaction_launch.launch.freezing.archive import digest_of, store
from getiaction_launch.launch.freezing.files import Files, choose
from getiaction_launch.launch.freezing.version import (
    commit_of,
    diff_of,
    editable_elsewhere,
    packages,
    versions,
)
from getiaction_launch.plan.code import Code
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.run import Run
from getiaction_launch.storage.probe import make_root


def describe(plan: Plan) -> Plan:
    """Return a plan with the version of its code, without writing anything.

    Args:
        plan: The plan of a run that is not submitted.

    Raises:
        CheckError: If its code is too large to be copied.
    """
    return replace(plan, code=_code_of(plan, _files_of(plan)))


def freeze(plans: Sequence[Plan], root: str | None = None) -> list[Plan]:
    """Copy the code of runs to where the runs are, and return their plans with it.

    A plan whose code was copied before keeps that copy.

    Args:
        plans: The plans of a run, or of all points of a sweep, which share one copy.
        root: Path or URL of the directory that holds all runs; that of each plan by default.

    Raises:
        CheckError: If the code is too large to be copied.
        OSError: If a file cannot be read or written.
        StorageError: If remote storage does not answer.
    """
    found: dict[tuple[str, str, str], Code] = {}
    frozen = []
    for plan in plans:
        if plan.code and plan.code.archive:
            frozen.append(plan)
            continue
        key = (plan.root, plan.working_directory, str(plan.script_path or ""))
        if key not in found:
            files = _files_of(plan)
            code = _code_of(plan, files)
            if plan.snapshot.enabled:
                make_root(root or plan.root)
                archive, digest = store(files, root or plan.root)
                code = replace(code, archive=archive, digest=digest)
            found[key] = code
        frozen.append(replace(plan, code=found[key]))
    return frozen


def freeze_again(run: Run, plan: Plan) -> Plan:
    """Copy the code of a run that exists anew, and return its plan with it.

    Args:
        run: The run, beside which the copy is written, wherever it has been moved.
        plan: The plan of its next attempts.

    Raises:
        CheckError: If the code is too large to be copied.
        OSError: If a file cannot be read or written.
        StorageError: If remote storage does not answer.
    """
    return freeze([replace(plan, code=None)], str(run.directory.parents[1]))[0]


def has_changed(plan: Plan) -> bool:
    """Whether the user's files, as far as they are here, are not those that were copied.

    Args:
        plan: The plan of a run that was submitted.
    """
    if plan.code is None or plan.code.archive is None or not Path(plan.code.root).is_dir():
        return False
    try:
        return digest_of(_files_of(plan)) != plan.code.digest
    except (OSError, LaunchError):  # what is there now cannot be copied
        return True


def copied_root(plan: Plan) -> Path | None:
    """Return the directory whose code would be copied for a run; None if none would be.

    Args:
        plan: The plan of a run that is not submitted.
    """
    return _chosen(plan).root if plan.snapshot.enabled else None


def _files_of(plan: Plan) -> Files:
    files = _chosen(plan)
    if plan.snapshot.enabled:
        files.check_size(plan.snapshot.limit_mb)
    return files


def _chosen(plan: Plan) -> Files:
    script = plan.script_path
    start = script.parent if script else Path(plan.working_directory)
    runs = [] if "://" in plan.root else [Path(plan.root)]
    return choose(start, script, plan.snapshot, runs)


def _code_of(plan: Plan, files: Files) -> Code:
    commit, diff = commit_of(files.root), diff_of(files.root)
    installed, is_frozen = packages(), plan.snapshot.enabled
    return Code(
        root=str(files.root),
        commit=commit,
        is_dirty=None if commit is None else bool(diff) or files.has_new,
        diff=diff,
        versions=versions(installed),
        links=files.links if is_frozen else {},
        not_covered=[*files.not_covered, *editable_elsewhere(installed, files.root)]
        if is_frozen
        else [],
    )
