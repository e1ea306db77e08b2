"""Whether the job that a record names is the run's: records may be wrong, or a stranger's.

A job id says little: a cluster that was set up anew counts from 1 again, and who can write to a
run's directory can put any id there.
"""

import contextlib
import os
import re
import shlex

from getiaction_launch.backends.slurm.command import call
from getiaction_launch.errors import LaunchError, RecordError, UnreachableError
from getiaction_launch.run.records import JobRecord
from getiaction_launch.run.run import Run, staging_root
from getiaction_launch.storage.paths import is_remote

LONGEST_SWEEP = 5000
_JOB_ID = re.compile(r"\d+(_\d+)?(\+\d+)?")
_VERSION = re.compile(r"version_(\d+)")
_STATE = re.compile(r"/getiaction-launch/slurm/[\da-f]{16}/")
_STEP_ID = re.compile(r"\d+")
_OUTPUT = re.compile(r"^\s*StdOut=(/.*)$", re.MULTILINE)


def check_ids(run: Run, record: JobRecord) -> None:
    """Check that a record's ids are such as SLURM's commands may get.

    Raises:
        RecordError: If one of them has another form.
    """
    is_step = record.step_id is None or _STEP_ID.fullmatch(record.step_id)
    if not _JOB_ID.fullmatch(record.job_id) or not is_step:
        step = "" if record.step_id is None else f" step_id={record.step_id!r}"
        raise RecordError(
            f"{run.launch_directory / 'job.json'}: job_id={record.job_id!r}{step} is not a job of "
            "SLURM.",
            "The file is damaged, or another program wrote it.",
        )


def check_identity(run: Run, record: JobRecord) -> None:
    """Check that a job writes its output where a job of this run does.

    A step in the user's own batch script says nothing about its run, and is not checked.

    Raises:
        UnreachableError: If it is another job.
    """
    said = ""
    with contextlib.suppress(LaunchError):  # what follows will say that SLURM does not answer
        said = "" if record.step_id is not None else call("scontrol", "show", "job", record.job_id)
    outputs = _OUTPUT.findall(said)
    if outputs and not any(_is_place_of(run, output) for output in outputs):
        raise UnreachableError(
            f"job {record.job_id} is not that of run {run.name}: it writes to {outputs[0]}.",
            f"If it shall end: scancel {shlex.quote(record.job_id)}",
        )


def _is_place_of(run: Run, output: str) -> bool:
    sweep = [run]  # whose jobs all write into the directory of its first run
    if version := _VERSION.fullmatch(run.directory.name):
        number = int(version[1])
        names = (f"version_{n}" for n in range(max(0, number - LONGEST_SWEEP), number))
        sweep += [Run(run.directory.parent / name) for name in names]
    folder = os.path.realpath(os.path.dirname(output))  # noqa: PTH120 - a text of SLURM's
    if folder.endswith("/launch/slurm"):
        places = [os.path.realpath(str(each.launch_directory / "slurm")) for each in sweep]
        return not is_remote(run.directory) and folder in places
    if _STATE.search(folder):  # of a run on remote storage
        sweep = sweep if is_remote(run.directory) else []
        staged = [each.local.directory.relative_to(staging_root()) for each in sweep]
        return any(folder.endswith(f"/slurm/{place}") for place in staged)
    return any(folder.endswith(f"/{each.name}") for each in sweep)  # in a job_dir
