"""The contract of a backend: it starts one node process on every node, at every start of a run.

A backend is a frozen dataclass that is its own config: a cluster config names its class and its
fields. All that a run reports about itself (logs, progress, result) lies in its directory and needs
no backend; what only the scheduler knows comes from the :class:`Job`. ``docs/new-backend.md``
develops a backend step by step.
"""

import contextlib
import dataclasses
import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from getiaction_launch.errors import (
    ClusterConfigError,
    LaunchError,
    RecordError,
    UnreachableError,
    UsageError,
)
from getiaction_launch.node.allocation import Allocation
from getiaction_launch.plan.plain import read_dataclass
from getiaction_launch.plan.plan import Plan
from getiaction_launch.run.records import BackendRecord, JobRecord
from getiaction_launch.run.run import Run
from getiaction_launch.run.state import Cause, JobState

T = TypeVar("T")
ENTRY_POINTS = "getiaction_launch.backends"
"""Group of entry points in which an installed package registers its backends."""
LOCAL = "getiaction_launch.backends.local.LocalBackend"
SLURM = "getiaction_launch.backends.slurm.SlurmBackend"
RAY = "getiaction_launch.backends.ray.RayBackend"
RAY_ON_SLURM = "getiaction_launch.backends.ray_on_slurm.RayOnSlurmBackend"
CLASS_PATHS = (LOCAL, SLURM, RAY, RAY_ON_SLURM)
"""How cluster configs and records name the shipped backends."""
_DEFINED_IN = (
    "getiaction_launch.backends.ray.backend.RayBackend",
    "getiaction_launch.backends.ray_on_slurm.backend.RayOnSlurmBackend",
    "getiaction_launch.backends.slurm.backend.SlurmBackend",
)
_SHIPPED = {*CLASS_PATHS, *_DEFINED_IN}
"""Class paths that records may name: where each class is imported from, and where it is defined."""


@dataclass(frozen=True)
class JobStatus:
    """The state of a job, as its scheduler reports it.

    Attributes:
        state: Where the job stands.
        reason: Why the job stands there, in the scheduler's own words.
        cause: What ended the job, if that is known.
        is_queued: Whether the job waits for nodes that are not free at present.
        is_certain: Whether the scheduler or the machine of the job has said so; otherwise the state
            follows from what the job last wrote.
        said: What the scheduler itself has said, in its own words; empty if it was not asked.
        meaning: What its word for why the job waits means, for people; empty if that is unknown.
    """

    state: JobState
    reason: str = ""
    cause: Cause | None = None
    is_queued: bool = False
    is_certain: bool = True
    said: str = ""
    meaning: str = ""


class Job(Protocol):
    """The job of one run, as its scheduler knows it."""

    @property
    def resume_command(self) -> str | None:
        """Command that resumes the run inside the user's own batch script, without its directory.

        None if ``getiaction-launch resume`` can resume the run from any shell.
        """

    def status(self) -> JobStatus:
        """Return the state of the job; this is cheap enough to be called every second."""

    def cancel(self) -> None:
        """End the job on every node, and return once all its processes have stopped.

        Raises:
            UnreachableError: If the job cannot be reached from here, or does not end.
        """

    def execute(self, node_rank: int, host: str, arguments: Sequence[str]) -> int:
        """Run the job's Python with other arguments on one of its nodes, next to the training.

        Its standard streams are those of this process, as far as the scheduler connects them. This
        process may become the one that connects them, so that the call does not return.

        Args:
            node_rank: Rank of the node, from 0.
            host: Host name of the node, as its process has recorded it; empty if it has not.
            arguments: Arguments of Python: ``-m``, a module and its arguments.

        Returns:
            The exit code.

        Raises:
            CheckError: If this backend cannot run anything on a node of a running job.
            UnreachableError: If the node cannot be reached from here.
        """


class Backend(Protocol):
    """Starts runs on one kind of cluster."""

    @property
    def start_seconds(self) -> float:
        """How long a job may take to begin when nodes are free, in seconds."""

    @property
    def has_queue(self) -> bool:
        """Whether jobs wait in a queue, so that mistakes are looked for before they are submitted.

        If not, a run starts at once, and its own workers find them.
        """

    def with_settings(self, values: Mapping[str, object]) -> "Backend":
        """Return this backend with other values for some of its fields.

        Args:
            values: New values by the field's name; ``field.key`` sets one key of a mapping.

        Raises:
            UnknownSettingError: If the backend has no such field.
        """

    def resolve_runs(self, root: str) -> "Backend":
        """Return this backend with job ids instead of runs in its settings, if there are any.

        Args:
            root: Directory or URL in which to look for runs.

        Raises:
            LaunchError: If a run does not exist, or can never fulfil a dependency on it.
        """

    def working_directory(self) -> Path | None:
        """Return the directory that a run's relative paths refer to; None for the shell's own."""

    def free_gpus(self, num_nodes: int) -> int | None:
        """Return how many GPUs each node would get; None if only the job will know.

        Args:
            num_nodes: How many nodes the run has.
        """

    def check(self, plan: Plan) -> None:
        """Check that this cluster can carry out ``plan``.

        Raises:
            LaunchError: If the cluster cannot carry out the plan, or does not answer.
        """

    def check_offers(self, plan: Plan) -> str:
        """Check that the cluster has what ``plan`` asks for; ``--no-check`` leaves this out.

        Unlike what :meth:`check` refuses, it may come to be there before the job starts.

        Returns:
            What it was compared with; empty if the cluster does not say what it has.

        Raises:
            LaunchError: If the job would wait for ever; names the setting and what there is.
        """

    def describe(self, plan: Plan) -> list[str]:
        """Return the commands that would be run, one line each, for ``--dry-run``."""

    def submit(self, runs: Sequence[Run], max_parallel: int | None) -> None:
        """Start runs whose ``plan.json`` is written; a resumed run continues in its directory.

        Args:
            runs: One run, or the runs of all points of a sweep.
            max_parallel: How many of the runs may run at the same time; None for the backend's own
                default.

        Raises:
            LaunchError: If none of them was started.
        """

    def attach(self, run: Run, record: JobRecord) -> Job:
        """Find a job again.

        Args:
            run: The run that the job belongs to.
            record: The run's ``job.json``, as :meth:`submit` has written it.
        """

    def allocation(self, plan: Plan) -> Allocation | None:
        """Return the node that a scheduler has given to this process.

        ``getiaction-launch node`` calls it. None if only the launcher itself starts nodes.

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
    """Return a copy of a backend that is a dataclass: :meth:`Backend.with_settings`.

    Args:
        backend: The backend to copy.
        values: New values by the field's name; ``field.key`` sets one key of a mapping.

    Raises:
        UnknownSettingError: If the backend has no such field.
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
    """Make the backend that a record names, if it is one that is shipped or installed.

    A record may be written by anybody, so no other class is even imported, and every setting must
    have the type of its field.

    Args:
        record: Class of the backend, and its settings.
        source: Path or URL of the record's file, for error messages.

    Raises:
        UnreachableError: If there is no such backend here, or the settings do not fit it.
    """
    kind = _find_class(record.class_path)
    if kind is None:
        raise UnreachableError(
            f"{source} names the backend {record.class_path!r}, which is not installed here.",
            f"Install the package that has it as an entry point of the group {ENTRY_POINTS}.",
        )
    other = "Was it written by another version of getiaction-launch?"
    if unknown := record.init_args.keys() - inspect.signature(kind).parameters.keys():
        raise UnreachableError(f"{source}: {kind.__name__} has no setting {min(unknown)!r}.", other)
    try:
        backend = read_dataclass(kind, record.init_args, source)
        fields = {field.name for field in dataclasses.fields(kind)}
        former = {key: value for key, value in record.init_args.items() if key not in fields}
        # Settings of earlier versions, which a class may still take as InitVars.
        found = dataclasses.replace(backend, **former) if former else backend
    except RecordError:
        raise
    except (ValueError, TypeError, NameError, LaunchError) as error:
        raise UnreachableError(f"{source} cannot be used: {error!r}.", other) from error
    return cast("Backend", found)


def _find_class(class_path: str) -> type[Any] | None:
    if class_path in _SHIPPED:
        module, _, name = class_path.rpartition(".")
        return cast("type[Any]", getattr(importlib.import_module(module), name))
    from importlib import metadata  # slow to import

    for entry_point in metadata.entry_points(group=ENTRY_POINTS):
        with contextlib.suppress(ImportError, AttributeError):  # another package's damage
            kind = entry_point.load()
            paths = entry_point.value.replace(":", "."), _class_path(kind)
            if class_path in paths and dataclasses.is_dataclass(kind):
                return cast("type[Any]", kind)
    return None


def check_installed(backend: object) -> None:
    """Check that later commands will find this backend again.

    Raises:
        ClusterConfigError: If its class is neither shipped nor registered as an entry point.
    """
    kind = type(backend)
    if _find_class(_class_path(kind)) is None:
        raise ClusterConfigError(
            f"backend.class_path={_class_path(kind)} is not installed as a backend, so status, "
            "cancel and resume could not use it.",
            f"Add to the pyproject.toml of its package, and install that:\n"
            f'[project.entry-points."{ENTRY_POINTS}"]\n'
            f'{kind.__module__.partition(".")[0]} = "{kind.__module__}:{kind.__qualname__}"',
        )


def former_jobs(run: Run) -> list[str]:
    """Return the ids of all jobs that a run has had, for the ``job.json`` of its next one.

    Whichever backend submitted them: one that is started later must see that it has lost the run.

    Args:
        run: The run that gets another job.
    """
    return (JobRecord.read(run) or JobRecord()).job_ids


def _class_path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def record_of(backend: object) -> BackendRecord:
    """Return the record in ``job.json`` of a backend that is a dataclass."""
    settings = dataclasses.asdict(backend)  # type: ignore[call-overload] # it is one
    return BackendRecord(_class_path(type(backend)), settings)
