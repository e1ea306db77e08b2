"""The contract of a backend: have the node process run once on every node, at every start.

A backend is a frozen dataclass that is its own config: a cluster config names its class and its
fields. Whatever a run says about itself (logs, progress, result) lies in the run's directory and
needs no backend; what only the scheduler knows comes from the :class:`Job`.
``docs/new-backend.md`` writes one step by step.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from getiaction_launch.errors import UnreachableError, UsageError
from getiaction_launch.node.allocation import Allocation
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

T = TypeVar("T")


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler says about a job.

    Attributes:
        state: Where the job stands.
        reason: Why, in the scheduler's own words.
        cause: What ended it, where that is known.
        is_queued: Whether it waits for nodes that are not free at present.
    """

    state: JobState
    reason: str = ""
    cause: Cause | None = None
    is_queued: bool = False


class Job(Protocol):
    """What the scheduler knows about the job of one run."""

    @property
    def resume_command(self) -> str | None:
        """What to type inside the user's own batch script to resume the run, before its directory.

        None where ``getiaction-launch resume`` does it from any shell.
        """

    def status(self) -> JobStatus:
        """What the scheduler says; cheap enough to be asked every second."""

    def cancel(self) -> None:
        """End the job on every node; return once nothing of it runs any more.

        Raises:
            UnreachableError: If the job cannot be reached from here, or does not end.
        """


class Backend(Protocol):
    """Starts runs on one kind of cluster."""

    @property
    def start_seconds(self) -> float:
        """How long a job may take to begin where nodes are free, in seconds."""

    def with_settings(self, values: Mapping[str, object]) -> "Backend":
        """The same backend with other values for some of its fields, as in a cluster config.

        Args:
            values: New values by the field's name; ``field.key`` sets one key of a mapping.

        Raises:
            UnknownSettingError: If there is no such field.
        """

    def resolve_runs(self, root: str) -> "Backend":
        """The same backend with job ids in place of the names of runs, where it takes some.

        Args:
            root: Directory or URL below which named runs are looked for.

        Raises:
            LaunchError: If a run does not exist, or can never fulfil what is asked of it.
        """

    def working_directory(self) -> Path | None:
        """Where the run's relative paths lie on this machine; None for the shell's directory."""

    def free_gpus(self, num_nodes: int) -> int | None:
        """GPUs that each of ``num_nodes`` nodes would get; None where only the job will know."""

    def check(self, plan: Plan) -> None:
        """Check that this cluster can carry out ``plan``.

        Raises:
            LaunchError: If it cannot.
        """

    def describe(self, plan: Plan) -> list[str]:
        """The commands that would be run, one line each, for ``--dry-run``."""

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Start runs whose ``plan.json`` is written; a resumed run continues in its directory.

        Args:
            runs: One run, or the points of a sweep.
            max_parallel: How many of a sweep may run at a time; None for what is usual there.

        Raises:
            LaunchError: If none of them was started.
        """

    def attach(self, run: Run, record: JobRecord) -> Job:
        """Find the job again by what :meth:`submit` wrote into ``job.json``."""

    def allocation(self, plan: Plan) -> Allocation | None:
        """The node of a scheduler's job that this process is, for ``getiaction-launch node``.

        None where nobody but the launcher starts nodes.

        Raises:
            UsageError: If this process is not one node of a job that fits ``plan``.
        """


class UnknownSettingError(UsageError):
    """A backend has no setting of this name.

    Attributes:
        name: The setting that was asked for.
    """

    def __init__(self, backend: object, name: str) -> None:
        super().__init__(f"{type(backend).__name__} has no setting {name!r}.")
        self.name = name


def replace_fields(backend: T, values: Mapping[str, object]) -> T:
    """:meth:`Backend.with_settings` for a backend that is a dataclass.

    Raises:
        UnknownSettingError: If there is no such field.
    """
    known = {field.name for field in dataclasses.fields(backend)}  # type: ignore[arg-type] # it is one
    changed: dict[str, Any] = {}
    for key, value in values.items():
        name, _, option = key.partition(".")
        if name not in known:
            raise UnknownSettingError(backend, name)
        if option:
            changed.setdefault(name, dict(getattr(backend, name)))[option] = value
        else:
            changed[name] = value
    return dataclasses.replace(backend, **changed)  # type: ignore[type-var] # it is one


def load_backend(record: BackendRecord, source: str) -> Backend:
    """Make the backend that a record names.

    Args:
        record: Its class and settings.
        source: Where the record stands, for the error.

    Raises:
        UnreachableError: If the record cannot be understood here.
    """
    module, _, name = record.class_path.rpartition(".")
    try:
        backend: Backend = getattr(importlib.import_module(module), name)(**record.init_args)
    except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise UnreachableError(
            f"{source} cannot be understood: {error!r}.",
            "Was it written by another version of getiaction-launch?",
        ) from error
    return backend


def record_of(backend: object) -> BackendRecord:
    """What ``job.json`` says about a backend that is a dataclass."""
    kind = type(backend)
    settings = dataclasses.asdict(backend)  # type: ignore[call-overload] # it is one
    return BackendRecord(f"{kind.__module__}.{kind.__qualname__}", settings)
