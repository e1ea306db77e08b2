"""Launch a training spec on many machines: this one, SLURM, Ray or a batch script.

The public Python API. Names are imported when they are first used, so ``import getiaction_launch``
is quick and nothing heavy comes with it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from getiaction_launch.backends.backend import Backend, Job, JobStatus
    from getiaction_launch.errors import LaunchError
    from getiaction_launch.launch.prepare import prepare
    from getiaction_launch.launch.programs.lines import read_logs
    from getiaction_launch.launch.programs.start import start
    from getiaction_launch.launch.programs.started import StartedRun
    from getiaction_launch.launch.resuming.change import Changes
    from getiaction_launch.launch.resuming.resume import resume
    from getiaction_launch.launch.status import RunStatus, attach, read_status, wait
    from getiaction_launch.launch.submit import cancel, check, submit
    from getiaction_launch.plan.plan import Plan
    from getiaction_launch.run.reading.find import find_run, list_runs
    from getiaction_launch.run.run import Run
    from getiaction_launch.run.state import Cause, JobState
    from getiaction_launch.worker.own_progress import progress

__all__ = [
    "Backend",
    "Cause",
    "Changes",
    "Job",
    "JobState",
    "JobStatus",
    "LaunchError",
    "Plan",
    "Run",
    "RunStatus",
    "StartedRun",
    "attach",
    "cancel",
    "check",
    "find_run",
    "list_runs",
    "prepare",
    "progress",
    "read_logs",
    "read_status",
    "resume",
    "start",
    "submit",
    "wait",
]
_MODULES = {
    "backends.backend": ("Backend", "Job", "JobStatus"),
    "errors": ("LaunchError",),
    "launch.programs.lines": ("read_logs",),
    "launch.prepare": ("prepare",),
    "launch.resuming.change": ("Changes",),
    "launch.resuming.resume": ("resume",),
    "launch.programs.start": ("start",),
    "launch.programs.started": ("StartedRun",),
    "launch.status": ("RunStatus", "attach", "read_status", "wait"),
    "launch.submit": ("cancel", "check", "submit"),
    "plan.plan": ("Plan",),
    "run.reading.find": ("find_run", "list_runs"),
    "run.run": ("Run",),
    "run.state": ("Cause", "JobState"),
    "worker.own_progress": ("progress",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name means
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
