"""The job that goes on with a run where its own cannot be requeued."""

import contextlib
import importlib
import os
import re
from dataclasses import replace

from getiaction_launch.backends.slurm.command import call
from getiaction_launch.errors import LaunchError, RefusedError
from getiaction_launch.run.run import Run


def submit_successor(run: Run, job_id: str) -> None:
    """Submit the job that goes on with a run when its present job, which may ask this, has gone.

    Jobs that wait for the present one are told to wait for the new one, where SLURM lets this user
    and this machine do so.

    Raises:
        LaunchError: If SLURM does not take it, or the batch script is the user's own.
    """
    record = run.read("job") or {}
    if "step_id" in record:
        raise RefusedError("the batch script is your own.", "Submit it again: sbatch ...")
    module, _, name = record["backend"]["class_path"].rpartition(".")
    backend = getattr(importlib.import_module(module), name)(**record["backend"]["init_args"])
    replace(backend, dependency=f"afterany:{job_id}").submit([run], None)
    with contextlib.suppress(LaunchError):
        _move_dependents(job_id, (run.read("job") or {})["job_id"])


def _move_dependents(job_id: str, successor_id: str) -> None:
    """Let what waits for a job of this user wait for its successor."""
    waiting = ("squeue", f"--user={os.getuid()}", "--states=PENDING", "--noheader")
    for line in dict.fromkeys(call(*waiting, "--format=%F|%E").splitlines()):
        waiter_id, _, dependency = line.strip().partition("|")
        clauses = re.sub(r"\(\w+\)", "", dependency)  # how each stands
        moved = re.sub(rf"(?<=:){job_id}\b", successor_id, clauses)
        if moved != clauses and waiter_id != successor_id:
            with contextlib.suppress(RefusedError):  # it may have gone meanwhile
                call("scontrol", "update", f"JobId={waiter_id}", f"Dependency={moved}")
