"""Freezes the user's code at submission: what is changed later reaches no attempt of the run."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from getiaction_launch.errors import LaunchError
from getiaction_launch.launch.freezing.archive import contents_of, digest_of, pack, store
from getiaction_launch.launch.freezing.arrival import arrived
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
    return _described(plan)[0]


def describe_again(plan: Plan) -> tuple[Plan, Files | None]:
    """Return a plan with the version of the present code, and its files; None if it was sent.

    Args:
        plan: The plan of a run that was submitted with other code.

    Raises:
        CheckError: If the code is too large to be copied.
    """
    return _described(plan, is_resumed=True)


def _described(plan: Plan, *, is_resumed: bool = False) -> tuple[Plan, Files | None]:
    """Return a plan with the version of its code, and its files; None for code that has arrived."""
    if arrival := arrived():
        return arrival.applied(plan), None
    files = _files_of(plan, is_resumed=is_resumed)
    return replace(plan, code=code_of(files, is_copied=plan.snapshot.enabled)), files


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
        arrival = arrived()
        applied = arrival.applied(plan) if arrival else plan
        key = (plan.root, plan.working_directory, str(plan.script_path or ""))
        if key not in found:
            found[key] = _stored(*_described(plan), root or plan.root)
        frozen.append(replace(applied, code=found[key]))
    return frozen


def _stored(plan: Plan, files: Files | None, root: str) -> Code:
    """Copy the code of a plan to the directory that holds all runs, and return what it is."""
    code = plan.code or Code()
    if arrival := arrived():
        write, is_private = arrival.copy_to, arrival.is_private
    elif files and plan.snapshot.enabled:
        write, is_private = partial(pack, files), files.is_private
        code = replace(code, contents=contents_of(files))
    else:
        return code
    make_root(root)
    archive, digest = store(write, root, is_private=is_private)
    return replace(code, archive=archive, digest=digest)


def freeze_again(run: Run, plan: Plan, files: Files | None = None) -> Plan:
    """Copy the code of a run that exists anew, and return its plan with it.

    Args:
        run: The run, beside which the copy is written, wherever it has been moved.
        plan: The plan of its next attempts.
        files: What :func:`describe_again` has chosen for that plan; None to describe it first.

    Raises:
        CheckError: If the code is too large to be copied.
        OSError: If a file cannot be read or written.
        StorageError: If remote storage does not answer.
    """
    if files is None:
        plan, files = describe_again(plan)
    return replace(plan, code=_stored(plan, files, str(run.directory.parents[1])))


def has_changed(plan: Plan) -> bool:
    """Whether the user's files, as far as they are here, are not those that were copied.

    Args:
        plan: The plan of a run that was submitted.
    """
    if plan.code is None or plan.code.archive is None or plan.code.home is not None:
        return False
    if not Path(plan.code.root).is_dir():
        return False
    try:
        files = _files_of(plan)
        if plan.code.contents:
            return contents_of(files) != plan.code.contents
        return digest_of(files) != plan.code.digest  # a copy of an earlier version
    except (OSError, LaunchError):  # what is there now cannot be copied
        return True


def copied_root(plan: Plan) -> Path | None:
    """Return the directory whose code would be copied for a run; None if none would be.

    Args:
        plan: The plan of a run that is not submitted.
    """
    if arrival := arrived():
        return arrival.tree
    return _chosen(plan).root if plan.snapshot.enabled else None


def _files_of(plan: Plan, *, is_resumed: bool = False) -> Files:
    files = _chosen(plan)
    if plan.snapshot.enabled:
        files.check_size(plan.snapshot.limit_mb, is_resumed=is_resumed)
    return files


def _chosen(plan: Plan) -> Files:
    script = plan.script_path
    start = script.parent if script else Path(plan.working_directory)
    runs = [] if "://" in plan.root else [Path(plan.root)]
    return choose(start, script, plan.snapshot, runs)


def code_of(files: Files, *, is_copied: bool) -> Code:
    """Return what is known of the user's code before it is copied.

    Args:
        files: The files of the code.
        is_copied: Whether runs train a copy of them.
    """
    commit = commit_of(files.root)
    diff = diff_of(files.root) if commit else ""
    installed = packages()
    return Code(
        root=str(files.root),
        commit=commit,
        is_dirty=None if commit is None else bool(diff) or files.has_new,
        diff=diff,
        versions=versions(installed),
        links=files.links if is_copied else {},
        not_covered=[*files.not_covered, *editable_elsewhere(installed, files.root)]
        if is_copied
        else [],
    )
